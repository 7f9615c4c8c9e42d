//! A client that names itself stays on one side of a canary, and moves once.

use anyhow::Result;
use samovar_tests::Server;
use samovar_tests::canary::Canary;
use samovar_types::promotion_settings::PromotionSettingsUpdate;

async fn side(server: &Server, canary: &Canary<'_>, client: Option<usize>) -> Result<bool> {
    let mut request = server.client().post(canary.url("/predict")).body("hello");
    if let Some(client) = client {
        request = request.header("X-Client", format!("client-{client}"));
    }
    let answer = request.send().await?;
    assert_eq!(answer.status(), 200);
    Ok(answer.text().await? != "hello")
}

#[tokio::test]
async fn a_client_stays_on_its_side_and_moves_once() -> Result<()> {
    let server = Server::start()?;
    let canary = Canary::push(&server, "sticky", ["echo", "count"], "")?;
    let settings = PromotionSettingsUpdate {
        sticky_header: Some(Some("x-client".into())),
        ..PromotionSettingsUpdate::default()
    };
    canary.set(20, settings).await?;
    let first = canary.pause_in_stage(3).await?;
    let mut before = Vec::new();
    for client in 0..100 {
        let seen = side(&server, &canary, Some(client)).await?;
        for _ in 0..4 {
            assert_eq!(
                side(&server, &canary, Some(client)).await?,
                seen,
                "client {client}"
            );
        }
        before.push(seen);
    }
    let moved = before.iter().filter(|seen| **seen).count() as u64;
    // Clients are not counted but told by their names: their share is about the percentage.
    assert!(
        moved > 0 && moved.abs_diff(first) <= 20,
        "{moved} of 100 at {first} %"
    );

    // Who does not say who it is is counted beside them, exactly.
    let mut share = 0;
    for _ in 0..100 {
        share += u64::from(side(&server, &canary, None).await?);
    }
    assert!(share.abs_diff(first) <= 1, "{share} of 100 at {first} %");

    canary.resume().await?;
    canary.in_stage(7).await?;
    canary.pause().await?;
    for (client, was) in before.iter().enumerate() {
        let is = side(&server, &canary, Some(client)).await?;
        assert!(is || !was, "client {client} moved back");
    }
    canary.cancel().await?;
    for client in 0..100 {
        assert!(
            !side(&server, &canary, Some(client)).await?,
            "after cancelling all are back"
        );
    }
    Ok(())
}
