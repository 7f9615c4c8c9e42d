//! Classifies an iris as one of three species, from four measurements.

// ANCHOR: model
use samovar_sdk::{Error, Graph, Model, Request, Response, Tensor};
use serde::Serialize;

const SPECIES: [&str; 3] = ["setosa", "versicolor", "virginica"];

struct Iris {
    graph: Graph,
}

#[derive(Serialize)]
struct Answer {
    species: &'static str,
    probability: f32,
}

#[samovar_sdk::model]
impl Model for Iris {
    // Runs once in each replica, before its first request.
    fn load() -> Result<Self, Error> {
        let graph = Graph::load("default")?;
        Ok(Self { graph })
    }

    // Runs for each POST /predict.
    fn predict(&self, mut request: Request) -> Result<Response, Error> {
        let measurements: [f32; 4] = request.json()?;
        let input = Tensor::from_slice([1, 4], &measurements)?;
        let outputs = self.graph.compute(&[("X", input)])?;
        Response::json(&best(outputs.get::<f32>("probabilities")?.as_slice())?)
    }
}

fn best(probabilities: &[f32]) -> Result<Answer, Error> {
    if probabilities.iter().any(|one| !one.is_finite()) {
        return Err(Error::bad_request(
            "the measurements are too large to compute with",
        ));
    }
    let named = SPECIES.into_iter().zip(probabilities.iter().copied());
    let (species, probability) = named
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .ok_or_else(|| Error::internal("the graph returned no probabilities"))?;
    Ok(Answer {
        species,
        probability,
    })
}
// ANCHOR_END: model

// ANCHOR: test
#[cfg(test)]
mod tests {
    use super::*;
    use samovar_sdk::testing::{self, Outputs};

    /// The model with a fake graph that always returns these probabilities.
    fn model(probabilities: [f32; 3]) -> Result<Iris, Error> {
        testing::graph("default", move |inputs| {
            assert_eq!(inputs.get::<f32>("X")?.dimensions(), [1, 4]);
            let output = Tensor::from_slice([1, 3], &probabilities)?;
            Ok(Outputs::new().with("probabilities", &output))
        });
        Iris::load()
    }

    #[test]
    fn the_most_likely_species_is_returned() -> Result<(), Error> {
        let request = Request::new("POST", "/predict", "[6.4, 3.2, 4.5, 1.5]");
        let answer = model([0.125, 0.75, 0.125])?.handle(request)?;
        let wanted = br#"{"species":"versicolor","probability":0.75}"#;
        assert_eq!(answer.into_bytes()?, wanted);
        Ok(())
    }

    #[test]
    fn other_bodies_than_four_numbers_are_refused() -> Result<(), Error> {
        for body in ["[6.4, 3.2, 4.5]", "[NaN, 1, 2, 3]", "[1e39, 1, 2, 3]"] {
            let request = Request::new("POST", "/predict", body);
            let error = model([1.0, 0.0, 0.0])?.handle(request).unwrap_err();
            assert_eq!(error.status(), 400, "{body}");
        }
        Ok(())
    }

    #[test]
    fn probabilities_that_are_not_finite_are_refused() -> Result<(), Error> {
        let request = Request::new("POST", "/predict", "[3e38, 3e38, 3e38, 3e38]");
        let error = model([f32::NAN, 0.0, 0.0])?.handle(request).unwrap_err();
        assert_eq!(error.status(), 400);
        Ok(())
    }
}
// ANCHOR_END: test
