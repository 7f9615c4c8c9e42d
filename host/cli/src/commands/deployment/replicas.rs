//! Lists the replicas of a deployment, or stops one.

use jiff::Timestamp;
use samovar_client::Client;
use samovar_client::text::printable;
use samovar_types::api::replicas::{ListReplicasResponse, ReplicaResponse};

use super::Place;
use crate::output::{self, Format, since, word};

pub async fn run(
    client: &Client,
    place: &Place,
    kill: Option<&str>,
    format: Format,
) -> anyhow::Result<()> {
    let Place { model, deployment } = place;
    let Some(id) = kill else {
        let answer = client.replicas(model, deployment).await?;
        let none = format!(
            "no replicas: the next request starts one, as does `samovar deployment wake {model} {deployment}`"
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
    let answer = client.terminate_replica(model, deployment, id).await?;
    let told = match answer.finishes_first {
        true => format!("replica {id} stops after its request"),
        false => format!("stopped replica {id}"),
    };
    match format {
        Format::Json => output::document(&answer),
        Format::Text => output::line(&told),
    }
}

fn rows(answer: &ListReplicasResponse, now: Timestamp) -> Vec<Vec<String>> {
    let row = |replica: &ReplicaResponse| {
        vec![
            printable(&replica.id),
            word(&replica.state),
            since(replica.started_at, now),
            replica.requests_served.to_string(),
        ]
    };
    answer.replicas.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use samovar_types::api::replicas::ReplicaStatus;

    use super::*;

    #[test]
    fn a_replica_is_a_row() {
        let replica = ReplicaResponse {
            id: "ab12z".into(),
            state: ReplicaStatus::Idle.into(),
            started_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            age_seconds: 7200.0,
            requests_served: 3,
        };
        let now = "2026-01-01T02:00:00Z".parse().unwrap();
        let replicas = vec![replica];
        let rows = rows(&ListReplicasResponse { replicas }, now);
        assert_eq!(rows, [["ab12z", "IDLE", "2 h ago", "3"]]);
    }
}
