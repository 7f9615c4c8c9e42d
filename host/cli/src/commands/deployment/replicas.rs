//! The replicas of a deployment: listed, and stopped one by one.

use jiff::Timestamp;
use samovar_client::Client;
use serde_json::Value;

use super::Place;
use crate::output::{self, Format, cell, since};

/// Lists the replicas, or stops one.
pub async fn run(
    client: &Client,
    place: &Place,
    kill: Option<&str>,
    format: Format,
) -> anyhow::Result<()> {
    let path = format!("{}/replicas", place.path());
    let Some(id) = kill else {
        let answer = client.get(&path).await?;
        let none = format!(
            "no replicas: the next request starts one, or `samovar deployment wake {} {}`",
            place.model, place.deployment
        );
        return match format {
            Format::Json => output::document(&answer),
            Format::Text => output::table(
                &["ID", "STATE", "STARTED", "REQUESTS"],
                rows(&answer, Timestamp::now()),
                &none,
            ),
        };
    };
    let answer = client.delete(&format!("{path}/{id}")).await?;
    let told = match answer["finishes_first"] == true {
        true => format!("the replica {id} finishes what it does, and stops then"),
        false => format!("stopped the replica {id}"),
    };
    match format {
        Format::Json => output::document(&answer),
        Format::Text => output::line(&told),
    }
}

fn rows(answer: &Value, now: Timestamp) -> Vec<Vec<String>> {
    let replicas = answer["replicas"].as_array().into_iter().flatten();
    replicas
        .map(|replica| {
            vec![
                cell(&replica["id"]),
                cell(&replica["state"]),
                since(&replica["started_at"], now),
                cell(&replica["requests_served"]),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_replica_is_a_row() {
        let answer = json!({"replicas": [{
            "id": "ab12z", "state": "IDLE", "started_at": "2026-01-01T00:00:00Z", "age_seconds": 7200.0,
            "requests_served": 3,
        }]});
        let now = "2026-01-01T02:00:00Z".parse().unwrap();
        assert_eq!(rows(&answer, now), [["ab12z", "IDLE", "2 h ago", "3"]]);
    }
}
