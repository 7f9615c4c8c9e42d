//! Copies of requests for a candidate: taken while they stream to the current deployment, sent when they are whole, their
//! answers dropped. Nothing here is ever waited for by the request itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use samovar_runtime::{Pool, PoolCounts, Traffic};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Longest body of a request that is copied.
pub const MAX_SHADOW_BYTES: usize = 1 << 20;
/// Copies of one promotion's requests that are taken or answered at once.
pub const MAX_SHADOWS: usize = 16;
/// Tells a component that nobody gets its answer.
pub const SHADOW_HEADER: &str = "x-samovar-shadow";

/// The copies that one promotion makes.
pub struct Shadows {
    places: Arc<Semaphore>,
    stop: CancellationToken,
    sent: AtomicU64,
    dropped: AtomicU64,
}

/// What became of the copies so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShadowCounts {
    /// Given to the candidate.
    pub sent: u64,
    /// Not: the candidate was busy, too many were on their way, the body was too long or was not read to its end.
    pub dropped: u64,
}

impl Default for Shadows {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_SHADOWS)),
            stop: CancellationToken::new(),
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }
}

impl Shadows {
    /// Cancels those that go on and makes no more.
    pub fn end(&self) {
        self.stop.cancel();
    }

    /// What became of them so far.
    pub fn counts(&self) -> ShadowCounts {
        ShadowCounts {
            sent: self.sent.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    /// Begins a copy, if there is room for one.
    pub fn copy<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        id: Arc<str>,
        candidate: &Arc<Pool>,
    ) -> Option<ShadowCopy> {
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place)
                if !self.stop.is_cancelled()
                    && has_room(candidate.counts(), candidate.settings().max_replica) =>
            {
                place
            }
            _ => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        head.headers_mut()
            .insert(SHADOW_HEADER, HeaderValue::from_static("1"));
        Some(ShadowCopy {
            whole: Some(Whole {
                head,
                id,
                candidate: candidate.clone(),
                place,
                body: Vec::new(),
            }),
            shadows: self.clone(),
        })
    }

    async fn send(self: Arc<Self>, whole: Whole) {
        let Whole {
            head,
            id,
            candidate,
            place,
            body,
        } = whole;
        let request = head.map(|()| Full::new(Bytes::from(body)));
        let answer = async {
            let Ok((answer, _)) = candidate.handle(request, id, Traffic::Async).await else {
                return;
            };
            // Read to its end: an answer that nobody reads is cancelled.
            let mut body = answer.into_body();
            while let Some(Ok(_)) = body.frame().await {}
        };
        tokio::select! {
            // Dropping the call cancels the guest.
            () = self.stop.cancelled() => {}
            () = answer => {}
        }
        drop(place);
    }
}

/// Whether a candidate has a place that no client waits for, and keeps one for the next client if it may have several.
fn has_room(counts: PoolCounts, max_replica: usize) -> bool {
    counts.waiting == 0 && counts.busy < max_replica.saturating_sub(1).max(1)
}

struct Whole {
    head: Request<()>,
    id: Arc<str>,
    candidate: Arc<Pool>,
    place: OwnedSemaphorePermit,
    body: Vec<u8>,
}

/// A copy that is being taken.
pub struct ShadowCopy {
    whole: Option<Whole>,
    shadows: Arc<Shadows>,
}

impl ShadowCopy {
    fn add(&mut self, data: &[u8]) {
        if let Some(whole) = &mut self.whole {
            if whole.body.len() + data.len() > MAX_SHADOW_BYTES {
                self.give_up();
            } else {
                whole.body.extend_from_slice(data);
            }
        }
    }

    fn is_whole(&mut self) {
        if let Some(whole) = self.whole.take() {
            // Asked once more: a body may have taken its time.
            let max_replica = whole.candidate.settings().max_replica;
            if !has_room(whole.candidate.counts(), max_replica) {
                self.shadows.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.shadows.sent.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(self.shadows.clone().send(whole));
        }
    }

    fn give_up(&mut self) {
        if self.whole.take().is_some() {
            self.shadows.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for ShadowCopy {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// A request's body that is copied while it streams through.
pub struct Copied<B> {
    inner: B,
    copy: ShadowCopy,
}

impl<B: Body<Data = Bytes>> Copied<B> {
    /// A body without anything in it is whole at once.
    pub fn new(inner: B, copy: ShadowCopy) -> Self {
        let mut body = Self { inner, copy };
        let long = body.inner.size_hint().lower() > MAX_SHADOW_BYTES as u64;
        if long {
            body.copy.give_up();
        }
        body.look_for_the_end();
        body
    }

    fn look_for_the_end(&mut self) {
        if self.inner.is_end_stream() {
            self.copy.is_whole();
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Copied<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => self.copy.is_whole(),
            Poll::Ready(Some(Err(_))) => self.copy.give_up(),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.copy.add(data);
                }
                // Nobody asks once more for a body whose length is known.
                self.look_for_the_end();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_left_for_clients() {
        let counts = |idle, busy, waiting| PoolCounts {
            idle,
            busy,
            waiting,
        };
        assert!(has_room(counts(0, 0, 0), 1));
        assert!(!has_room(counts(0, 1, 0), 1));
        assert!(has_room(counts(1, 8, 0), 10));
        assert!(!has_room(counts(1, 9, 0), 10));
        assert!(!has_room(counts(0, 0, 1), 10));
    }
}
