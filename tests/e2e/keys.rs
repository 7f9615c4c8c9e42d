//! API keys open what they are for, from the moment they are made until the moment they are deleted.

use anyhow::{Context as _, Result};
use reqwest::Method;
use samovar_client::ClientError;
use samovar_tests::Server;
use samovar_types::api::api_keys::CreateApiKeyRequest;
use samovar_types::api_key::KeyType;
use samovar_types::error::ErrorCode;
use serde_json::{Value, json};

/// Makes a key by the command line, which prints it and nothing else.
fn made(server: &Server, args: &[&str]) -> Result<String> {
    let output = server.cli(&[&["key", "create", "--type"], args].concat())?;
    let told = String::from_utf8(output.stderr)?;
    assert!(output.status.success(), "{told}");
    let text = String::from_utf8(output.stdout)?;
    let key = text.trim_end_matches('\n');
    assert!(key.split_once('.').is_some() && !key.contains(char::is_whitespace));
    assert!(!told.contains(key));
    Ok(key.to_owned())
}

fn prefix(key: &str) -> &str {
    key.split_once('.').unwrap().0
}

struct Caller<'s> {
    server: &'s Server,
    key: &'s str,
}

impl<'s> Caller<'s> {
    fn new(server: &'s Server, key: &'s str) -> Self {
        Self { server, key }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<(u16, Value)> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let request = client.request(method, self.server.at(path));
        let request = request.bearer_auth(self.key);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.unwrap_or(Value::Null)))
    }

    async fn get(&self, path: &str) -> Result<u16> {
        Ok(self.send(Method::GET, path, None).await?.0)
    }

    async fn create(&self, body: Value) -> Result<(u16, Value)> {
        self.send(Method::POST, "/v1/api_keys", Some(body)).await
    }

    /// The error of deleting a key, if it is not deleted.
    async fn delete(&self, prefix: &str) -> Option<ClientError> {
        let client = self.server.api_with(self.key);
        client.delete_api_key(prefix).await.err()
    }
}

/// The code of an error, which there must be.
fn code(error: Option<ClientError>) -> Option<ErrorCode> {
    error.unwrap().code()
}

#[tokio::test]
async fn each_type_opens_its_own() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    let paths = [
        "/models/count/production/predict",
        "/v1/api_keys",
        "/v1/models",
        "/v1/secrets",
        "/v1/webhook_secrets",
        "/v1/users/me",
        "/metrics",
    ];
    for (key_type, statuses) in [
        ("personal", [200; 7]),
        ("manage-all", [200; 7]),
        ("invoke", [200, 403, 403, 403, 403, 403, 403]),
        ("manage-api-keys", [403, 200, 403, 403, 403, 403, 403]),
        ("export-metrics", [403, 403, 403, 403, 403, 403, 200]),
    ] {
        let key = made(&server, &[key_type, "--name", "for a test"])?;
        let caller = Caller {
            server: &server,
            key: &key,
        };
        for (path, status) in paths.iter().zip(statuses) {
            assert_eq!(caller.get(path).await?, status, "{key_type} {path}");
        }
    }
    let listed = server.cli_json(&["key", "list"])?;
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 6);
    let invoke = keys.iter().find(|key| key["type"] == "WORKSPACE_INVOKE");
    assert_eq!(invoke.unwrap()["name"], "for a test");
    assert!(invoke.unwrap()["model_ids"].is_null());
    Ok(())
}

#[tokio::test]
async fn a_key_for_one_model_is_for_no_other() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    server.push_as("other", "count", "")?;
    let key = made(&server, &["invoke", "--model", "count"])?;
    let caller = Caller {
        server: &server,
        key: &key,
    };
    let call = async |model: &str| {
        caller
            .get(&format!("/models/{model}/production/predict"))
            .await
    };
    assert_eq!(call("count").await?, 200);
    assert_eq!(call("other").await?, 404);
    assert_eq!(call("nothing").await?, 404);

    let admin = server.key();
    let admin = Caller {
        server: &server,
        key: &admin,
    };
    let (status, _) = admin
        .create(json!({ "type": "WORKSPACE_INVOKE", "model_ids": ["nothing"] }))
        .await?;
    assert_eq!(status, 404);
    for body in [
        json!({ "type": "PERSONAL", "model_ids": ["count"] }),
        json!({ "type": "ROUTES" }),
        json!({ "type": "PERSONAL", "name": "" }),
        json!({ "type": "PERSONAL", "nmae": "x" }),
        json!({}),
    ] {
        let (status, answer) = admin.create(body).await?;
        assert_eq!(status, 400, "{answer}");
    }
    let filtered = admin.send(Method::GET, "/v1/api_keys?type=WORKSPACE_INVOKE", None);
    let (_, listed) = filtered.await?;
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1);
    assert_eq!(listed["keys"][0]["model_ids"].as_array().unwrap().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_deleted_key_is_refused_at_once_and_after_a_restart() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    let path = "/models/count/production/predict";
    let (kept, deleted) = (made(&server, &["invoke"])?, made(&server, &["invoke"])?);
    assert_eq!(Caller::new(&server, &deleted).get(path).await?, 200);
    server.cli_json(&["key", "delete", prefix(&deleted), "--yes"])?;
    assert_eq!(Caller::new(&server, &deleted).get(path).await?, 401);
    let again = server.cli(&["key", "delete", prefix(&deleted), "--yes"])?;
    assert_eq!(again.status.code(), Some(1));
    let server = server.restart()?;
    assert_eq!(Caller::new(&server, &deleted).get(path).await?, 401);
    assert_eq!(Caller::new(&server, &kept).get(path).await?, 200);
    Ok(())
}

#[tokio::test]
async fn the_last_key_that_may_do_everything_stays() -> Result<()> {
    let server = Server::start()?;
    let first = server.key();
    let first = Caller {
        server: &server,
        key: &first,
    };
    let refused = first.delete(prefix(first.key)).await;
    assert_eq!(code(refused), Some(ErrorCode::LastAdminKey));
    assert_eq!(first.get("/v1/models").await?, 200);
    let second = made(&server, &["manage-all"])?;
    let second = Caller {
        server: &server,
        key: &second,
    };
    assert!(second.delete(prefix(first.key)).await.is_none());
    assert_eq!(first.get("/v1/models").await?, 401);
    let refused = second.delete(prefix(second.key)).await;
    assert_eq!(code(refused), Some(ErrorCode::LastAdminKey));
    for wild in ["x", "../x", "\0", &"x".repeat(5000)] {
        let refused = second.delete(wild).await;
        assert_eq!(code(refused), Some(ErrorCode::NotFound), "{wild}");
    }
    Ok(())
}

#[tokio::test]
async fn a_key_for_keys_gives_nobody_more_than_it_may() -> Result<()> {
    let server = Server::start()?;
    let key = made(&server, &["manage-api-keys"])?;
    let caller = Caller {
        server: &server,
        key: &key,
    };
    let client = server.api_with(&key);
    for key_type in [KeyType::Personal, KeyType::WorkspaceManageAll] {
        let request = CreateApiKeyRequest::new(key_type);
        let refused = client.create_api_key(&request).await.err();
        assert_eq!(code(refused), Some(ErrorCode::Forbidden), "{key_type:?}");
    }
    let refused = caller.delete(prefix(&server.key())).await;
    assert_eq!(code(refused), Some(ErrorCode::Forbidden));
    let request = CreateApiKeyRequest::new(KeyType::WorkspaceInvoke);
    let created = client.create_api_key(&request).await?;
    assert_eq!(created.prefix, prefix(&created.api_key));
    assert!(caller.delete(&created.prefix).await.is_none());
    Ok(())
}

#[tokio::test]
async fn who_calls_and_whose_server_it_is_stay_the_same() -> Result<()> {
    let server = Server::start()?;
    let client = server.api();
    assert_eq!(client.user().await?.user_id, prefix(&server.key()));
    let organization = client.organization().await?;
    let teams = client.teams().await?.into_inner().teams;
    let team = teams.first().context("a team")?;
    assert!(team.default);
    let shown = client.team(team.id).await?;
    assert_eq!(
        (shown.id, &shown.name, shown.created_at),
        (team.id, &team.name, team.created_at)
    );
    let request = server.client().get(server.at("/v1/teams?name=nobody"));
    let none: Value = request.send().await?.json().await?;
    assert_eq!(none["teams"], json!([]));
    let types = client.instance_types().await?.into_inner().instance_types;
    let cpu = types.first().context("a type")?;
    assert_eq!(cpu.id, "cpu");
    assert!(cpu.memory_limit_mib > 0);
    assert!(cpu.millicpu_limit >= 1000);
    assert_eq!(cpu.gpu_count, 0);
    let server = server.restart()?;
    let again = server.api().organization().await?;
    assert_eq!(again.json(), organization.json());
    Ok(())
}
