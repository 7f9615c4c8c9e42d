//! From scores to an answer: the best type, if the model is sure enough of it.

use samovar_sdk::{Error, argmax};
use serde::Serialize;

use crate::content::{ContentType, EMPTY, TXT, TYPES, UNKNOWN, canonical, threshold};
use crate::features::Ends;

/// What a file is.
#[derive(Debug, Serialize)]
pub struct Verdict {
    #[serde(flatten)]
    content_type: &'static ContentType,
    score: f32,
    /// What the model said, where the answer is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    dl_label: Option<&'static str>,
}

impl Verdict {
    /// The answer for a file with too few bytes to ask the model.
    pub fn without_model(ends: &Ends) -> Self {
        let content_type = match ends.first() {
            [] => &EMPTY,
            bytes if std::str::from_utf8(bytes).is_ok() => &TXT,
            _ => &UNKNOWN,
        };
        Self {
            content_type,
            score: 1.0,
            dl_label: None,
        }
    }

    /// The answer for the model's scores.
    pub fn from_scores(scores: &[f32]) -> Result<Self, Error> {
        if scores.len() != TYPES.len() {
            return Err(Error::internal(format!(
                "the model gave {} scores, wanted {}",
                scores.len(),
                TYPES.len()
            )));
        }
        let Some((at, score)) = argmax(scores) else {
            return Err(Error::internal("no score of the model is a number"));
        };
        let inferred = &TYPES[at];
        let named = canonical(inferred);
        let content_type = match (score >= threshold(inferred.label), named.is_text) {
            (true, _) => named,
            (false, true) => &TXT,
            (false, false) => &UNKNOWN,
        };
        let dl_label = (inferred.label != content_type.label).then_some(inferred.label);
        Ok(Self {
            content_type,
            score,
            dl_label,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // ANCHOR: test
    fn verdict(label: &str, score: f32) -> (&'static str, Option<&'static str>) {
        let scores: Vec<f32> = TYPES
            .iter()
            .map(|found| if found.label == label { score } else { 0.001 })
            .collect();
        let verdict = Verdict::from_scores(&scores).expect("the right number");
        (verdict.content_type.label, verdict.dl_label)
    }

    #[test]
    fn a_sure_model_is_believed() {
        assert_eq!(verdict("png", 0.5), ("png", None));
        assert_eq!(verdict("markdown", 0.75), ("markdown", None));
    }
    // ANCHOR_END: test

    #[test]
    fn an_unsure_model_is_not() {
        assert_eq!(verdict("png", 0.49), ("unknown", Some("png")));
        assert_eq!(verdict("markdown", 0.74), ("txt", Some("markdown")));
        assert_eq!(verdict("txt", 0.2), ("txt", None));
    }

    #[test]
    fn noise_has_common_names() {
        assert_eq!(
            verdict("randombytes", 0.9),
            ("unknown", Some("randombytes"))
        );
        assert_eq!(verdict("randomtxt", 0.9), ("txt", Some("randomtxt")));
    }

    #[test]
    fn few_bytes_are_text_or_unknown() {
        let label = |file: &[u8]| {
            let ends = Ends::read(&mut &file[..]).expect("memory does not fail");
            Verdict::without_model(&ends).content_type.label
        };
        assert_eq!(
            (label(b""), label(b"hi"), label(b"\xff\xfe")),
            ("empty", "txt", "unknown")
        );
    }

    #[test]
    fn the_number_of_scores_is_checked() {
        assert!(Verdict::from_scores(&[0.5; 3]).is_err());
    }
}
