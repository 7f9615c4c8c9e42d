//! The command line: exit codes, words for people, JSON for programs.

use anyhow::Result;
use samovar_tests::Server;

#[test]
fn words_and_json_say_the_same() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    let words = server.cli(&["deployment", "list", "count"])?;
    assert!(words.status.success());
    let text = String::from_utf8(words.stdout)?;
    assert!(
        text.contains("deployment-1") && text.contains("production"),
        "{text}"
    );
    let json = server.cli_json(&["deployment", "list", "count"])?;
    assert_eq!(json["deployments"][0]["name"], "deployment-1");
    let backends = server.cli_json(&["backends"])?;
    let rten = backends["backends"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "rten");
    assert_eq!(rten.unwrap()["available"], true);
    let predicted = server.cli(&["predict", "count", "-d", "x"])?;
    assert_eq!(predicted.stdout, b"1");
    Ok(())
}

#[test]
fn mistakes_have_their_exit_codes_and_no_backtrace() -> Result<()> {
    let server = Server::start()?;
    for (args, code, text) in [
        (vec!["no-such-command"], 2, "unrecognized"),
        (vec!["deployment", "list", "nothing"], 1, "nothing"),
        (vec!["push", "/no/such/folder"], 1, "/no/such/folder"),
        (vec!["model", "delete", "nothing"], 2, "--yes"),
    ] {
        let output = server.cli(&args)?;
        let error = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(text), "{args:?}: {error}");
        assert!(
            !error.contains("backtrace") && !error.contains(".rs:"),
            "{error}"
        );
    }
    Ok(())
}

#[test]
fn a_second_node_on_the_same_folder_is_refused() -> Result<()> {
    let server = Server::start()?;
    let data = server.folder().join("data");
    let output = server.cli(&[
        "serve",
        "--addr",
        "127.0.0.1:0",
        "--data",
        data.to_str().unwrap(),
    ])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr)?.contains("another samovar"));
    Ok(())
}
