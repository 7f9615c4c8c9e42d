//! Tells a load whether anything still wants its graph.

use tokio::sync::watch;

/// Held by what wants a graph. The load may be given up once it is dropped.
#[derive(Debug)]
pub(crate) struct Interest {
    _lost: watch::Sender<()>,
}

/// For the load.
#[derive(Clone, Debug)]
pub(crate) struct Interested(watch::Receiver<()>);

impl Interest {
    /// An interest, and what tells its end.
    pub fn new() -> (Self, Interested) {
        let (sender, receiver) = watch::channel(());
        (Self { _lost: sender }, Interested(receiver))
    }
}

impl Interested {
    /// Waits until the interest is dropped.
    pub async fn lost(&self) {
        let mut receiver = self.0.clone();
        while receiver.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn an_interest_is_lost_when_it_is_dropped() {
        let (interest, interested) = Interest::new();
        assert_eq!(interested.lost().now_or_never(), None);
        drop(interest);
        assert_eq!(interested.lost().now_or_never(), Some(()));
    }
}
