//! Tells which of three irises a flower is, from four measures of it.

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
    // Once in each replica, before its first request.
    fn load() -> Result<Self, Error> {
        let graph = Graph::load("default")?;
        Ok(Self { graph })
    }

    // Once for each POST /predict.
    fn predict(&self, mut request: Request) -> Result<Response, Error> {
        let measures: [f32; 4] = request.json()?;
        let input = Tensor::from_slice([1, 4], &measures)?;
        let outputs = self.graph.compute(&[("X", input)])?;
        Response::json(&best(outputs.get("probabilities")?.as_slice())?)
    }
}

fn best(probabilities: &[f32]) -> Result<Answer, Error> {
    let named = SPECIES.into_iter().zip(probabilities.iter().copied());
    let (species, probability) = named
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .ok_or_else(|| Error::internal("the graph gave no probabilities"))?;
    Ok(Answer {
        species,
        probability,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use samovar_sdk::tensor::RawTensor;
    use samovar_sdk::testing;

    /// Answers with these probabilities, whatever it is asked, if the input has the right shape.
    fn graph(probabilities: [f32; 3]) -> Graph {
        testing::graph("default", move |inputs| {
            let x: Tensor<f32> = inputs.get("X")?;
            assert_eq!(x.dimensions(), [1, 4]);
            let output = Tensor::from_slice([1, 3], &probabilities)?;
            Ok(vec![("probabilities".to_owned(), RawTensor::from(output))])
        })
    }

    #[test]
    fn the_likeliest_species_is_the_answer() -> Result<(), Error> {
        let mut model = Iris {
            graph: graph([0.1, 0.7, 0.2]),
        };
        let request = Request::new("POST", "/predict", "[6.4, 3.2, 4.5, 1.5]");
        let answer = model.handle(request)?.into_bytes()?;
        assert_eq!(answer, br#"{"species":"versicolor","probability":0.7}"#);
        Ok(())
    }

    #[test]
    fn three_measures_are_refused() {
        let mut model = Iris {
            graph: graph([1.0, 0.0, 0.0]),
        };
        let request = Request::new("POST", "/predict", "[6.4, 3.2, 4.5]");
        let error = model.handle(request).expect_err("one is missing");
        assert_eq!(error.status(), 400);
    }
}
