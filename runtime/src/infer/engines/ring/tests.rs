//! Messages through a ring: in order, around its end, past lies of the other side, and never slept over.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn ends() -> (Sender, Receiver) {
    let (fd, shared) = create().unwrap();
    let (sender, _) = node_ends(&shared).unwrap();
    let (receiver, _) = engine_ends(&SharedMemory::open(&fd).unwrap()).unwrap();
    (sender, receiver)
}

fn next(receiver: &Receiver) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let there = receiver.lock().next(&mut message).unwrap();
    there.then_some(message)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Also around the ring's end, and when it is full.
    #[test]
    fn messages_come_out_as_they_went_in(
        steps in prop::collection::vec((0..=MAX_MESSAGE_BYTES, any::<u8>(), any::<bool>()), 1..60)
    ) {
        let (sender, receiver) = ends();
        let mut wanted = VecDeque::new();
        for (bytes, value, takes) in steps {
            let message = vec![value; bytes];
            let (first, second) = message.split_at(bytes / 3);
            match sender.try_send(&[first, second]).unwrap() {
                Sent::Full => prop_assert!(wanted.iter().map(Vec::len).sum::<usize>() + bytes > 190_000),
                _ => wanted.push_back(message),
            }
            if takes {
                prop_assert_eq!(next(&receiver), wanted.pop_front());
            }
            prop_assert_eq!(receiver.is_empty(), wanted.is_empty());
        }
        while let Some(message) = wanted.pop_front() {
            prop_assert_eq!(next(&receiver), Some(message));
        }
        prop_assert_eq!(next(&receiver), None);
    }
}

#[test]
fn whoever_sleeps_is_woken_once() {
    let (sender, receiver) = ends();
    assert_eq!(sender.try_send(&[b"a"]).unwrap(), Sent::Awake);
    assert!(receiver.about_to_sleep().is_none());
    next(&receiver);
    assert!(receiver.about_to_sleep().is_some());
    assert_eq!(sender.try_send(&[b"b"]).unwrap(), Sent::Asleep);
    assert_eq!(sender.try_send(&[b"c"]).unwrap(), Sent::Awake);
}

#[test]
fn unreceived_messages_are_known() {
    let (sender, receiver) = ends();
    for message in [b"a", b"b", b"c"] {
        sender.try_send(&[message]).unwrap();
    }
    next(&receiver);
    assert_eq!(sender.unreceived(), [b"b", b"c"]);
    // A peer that lies has fewer to tell of, and no more.
    receiver
        .ring
        .head()
        .read
        .0
        .store(u64::MAX, Ordering::Relaxed);
    assert!(sender.unreceived().is_empty());
}

#[test]
fn a_sender_that_found_no_room_is_told_of_it() {
    let (sender, receiver) = ends();
    let long = vec![0; MAX_MESSAGE_BYTES];
    while sender.try_send(&[&long]).unwrap() != Sent::Full {}
    assert!(next(&receiver).is_some());
    assert!(receiver.must_wake_sender());
    assert!(!receiver.must_wake_sender());
    assert_ne!(sender.try_send(&[&long]).unwrap(), Sent::Full);
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let mut message = Vec::new();
    for written in [1, 7, CAPACITY + 8, u64::MAX] {
        let (_sender, receiver) = ends();
        let head = receiver.ring.head();
        head.written.0.store(written, Ordering::Relaxed);
        receiver.ring.write(0, &1u64.to_le_bytes()).unwrap();
        assert!(receiver.lock().next(&mut message).is_err(), "{written}");
    }
    for length in [MAX_MESSAGE_BYTES as u64 + 1, 9, u64::MAX] {
        let (sender, receiver) = ends();
        sender.try_send(&[b"12345678"]).unwrap();
        receiver.ring.write(0, &length.to_le_bytes()).unwrap();
        assert!(receiver.lock().next(&mut message).is_err(), "{length}");
    }
    for taken in [1, u64::MAX] {
        let (sender, receiver) = ends();
        let head = receiver.ring.head();
        head.read.0.store(taken, Ordering::Relaxed);
        assert!(sender.try_send(&[b"a"]).is_err(), "{taken}");
    }
    let (sender, _receiver) = ends();
    assert!(sender.try_send(&[&vec![0; MAX_MESSAGE_BYTES + 1]]).is_err());
}

/// Several threads take what several send, sleep when there is nothing, and wake each other as those of an engine do.
#[test]
fn no_message_is_slept_over() {
    const SENDERS: u64 = 3;
    const EACH: u64 = 20_000;
    let (sender, receiver) = ends();
    let asleep = AtomicU32::new(0);
    let (count, sum) = (AtomicU64::new(0), AtomicU64::new(0));
    let all = SENDERS * EACH;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut message = Vec::new();
                while count.load(Ordering::SeqCst) < all {
                    if receiver.lock().next(&mut message).unwrap() {
                        if receiver.must_wake_sender() {
                            receiver.wake_senders();
                        }
                        if asleep.load(Ordering::SeqCst) > 0 && receiver.about_to_sleep().is_none()
                        {
                            receiver.wake(1);
                        }
                        let number = u64::from_le_bytes(message[..8].try_into().unwrap());
                        sum.fetch_add(number, Ordering::SeqCst);
                        if count.fetch_add(1, Ordering::SeqCst) + 1 == all {
                            receiver.wake(i32::MAX);
                        }
                        continue;
                    }
                    asleep.fetch_add(1, Ordering::SeqCst);
                    if let Some(sleep) = receiver.about_to_sleep()
                        && count.load(Ordering::SeqCst) < all
                    {
                        receiver.sleep(sleep);
                    }
                    asleep.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
        for _ in 0..SENDERS {
            scope.spawn(|| {
                let behind = vec![0; 999];
                for number in 0..EACH {
                    loop {
                        match sender.try_send(&[&number.to_le_bytes(), &behind]).unwrap() {
                            Sent::Awake => break,
                            Sent::Asleep => break sender.wake_one(),
                            Sent::Full => sender.wait_for_room(),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(sum.load(Ordering::SeqCst), SENDERS * EACH * (EACH - 1) / 2);
}
