//! What an answer to an attack means, and whether it keeps what was promised.

use serde_json::Value;

use super::http::{Answer, Lost};

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Outputs, whose elements fit their shapes.
    Ran(Vec<Output>),
    /// An error of the caller or of the model, said with a reason.
    Refused(String),
    /// The run was stopped at the deployment's timeout.
    TimedOut,
    /// The run ended its engine.
    EndedEngine(String),
    /// The graph ended its engines too often and is not run for a while.
    Quarantined,
    /// Broken: the request hung.
    Hung,
    /// Broken in another way.
    Broken(String),
}

/// An output of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    pub name: String,
    pub datatype: String,
    pub shape: Vec<u64>,
    pub data: Vec<f64>,
}

impl Outcome {
    /// What an answer of the Open Inference Protocol means.
    pub fn of(answer: Result<Answer, Lost>) -> Self {
        let answer = match answer {
            Ok(answer) => answer,
            Err(Lost::Hung) => return Self::Hung,
            Err(lost @ Lost::Broken(_)) => return Self::Broken(lost.to_string()),
        };
        let text = answer.text();
        match answer.status {
            200 => match outputs(&answer.body) {
                Ok(outputs) => Self::Ran(outputs),
                Err(why) => Self::Broken(format!("{why}: {text}")),
            },
            504 => Self::TimedOut,
            _ if is_bystander(&text) => Self::Broken(text),
            400..500 => Self::Refused(text),
            _ if text.contains("it is quarantined for another") => Self::Quarantined,
            _ if text.contains("the engine that ran graph") => Self::EndedEngine(text),
            // Without a reason it would be an error of the node's own.
            _ if answer.body.len() > 10 => Self::Refused(text),
            _ => Self::Broken(text),
        }
    }

    /// Why it breaks a promise, if it does.
    pub fn broken(&self) -> Option<&str> {
        match self {
            Self::Hung => Some("the request hung"),
            Self::Broken(why) => Some(why),
            _ => None,
        }
    }
}

/// Whether a run or a load failed because the server ended the engine on account of another graph: it repeats these.
pub fn is_bystander(text: &str) -> bool {
    text.contains("after it was cancelled") || text.contains("because of other graphs")
}

fn outputs(body: &[u8]) -> Result<Vec<Output>, &'static str> {
    let answer: Value = serde_json::from_slice(body).map_err(|_| "the answer is no JSON")?;
    let outputs = answer["outputs"].as_array().ok_or("no outputs")?;
    let outputs = outputs.iter().map(|output| {
        let shape = output["shape"].as_array().ok_or("no shape")?.iter();
        let shape: Option<Vec<u64>> = shape.map(Value::as_u64).collect();
        let shape = shape.ok_or("the shape is none")?;
        let data = output["data"].as_array().ok_or("no data")?;
        let product = shape
            .iter()
            .try_fold(1u64, |all, one| all.checked_mul(*one));
        if product != Some(data.len() as u64) {
            return Err("the elements do not fit the shape");
        }
        let data: Option<Vec<f64>> = data.iter().map(number).collect();
        let text = |key: &str| output[key].as_str().unwrap_or_default().to_owned();
        Ok(Output {
            name: text("name"),
            datatype: text("datatype"),
            shape,
            data: data.ok_or("an element is no number")?,
        })
    });
    outputs.collect()
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(value) => Some(u8::from(*value).into()),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        value => value.as_f64(),
    }
}

/// The first difference between the outputs of two runs of the same inputs, beyond the order of a sum.
pub fn difference(before: &[Output], after: &[Output]) -> Option<String> {
    if before.len() != after.len() {
        return Some(format!("{} outputs, not {}", after.len(), before.len()));
    }
    before.iter().zip(after).find_map(|(before, after)| {
        let name = &before.name;
        if (name, &before.datatype, &before.shape) != (&after.name, &after.datatype, &after.shape) {
            return Some(format!(
                "{name} {} {:?}, not {} {:?}",
                after.datatype, after.shape, before.datatype, before.shape
            ));
        }
        let same = |(a, b): (&f64, &f64)| {
            a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-6 + 1e-4 * a.abs()
        };
        let at = before
            .data
            .iter()
            .zip(&after.data)
            .position(|both| !same(both))?;
        Some(format!(
            "{name}[{at}]: {}, not {}",
            after.data[at], before.data[at]
        ))
    })
}
