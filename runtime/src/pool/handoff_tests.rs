//! Requests that come, crash, give up and end while the settings change, in thousands of interleavings.

use shuttle::future::block_on;
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use super::*;

/// A pool whose replicas are numbers.
struct Pool {
    state: Mutex<PoolState<Box<usize>, Waiter<Self>>>,
    settings: Mutex<PoolSettings>,
    made: AtomicUsize,
    served: AtomicUsize,
}

impl Places for Pool {
    type Replica = usize;

    fn with_state<T>(
        &self,
        update: impl FnOnce(&mut PoolState<Box<usize>, Waiter<Self>>) -> T,
    ) -> T {
        update(&mut self.state.lock().unwrap())
    }

    fn current_settings(&self) -> PoolSettings {
        *self.settings.lock().unwrap()
    }

    fn start_settings(&self, _now: Instant) -> PoolSettings {
        self.current_settings()
    }

    fn is_stopping(replica: &usize) -> bool {
        replica.is_multiple_of(5)
    }

    fn on_place_free(&self) {}
}

impl Pool {
    fn new(max_replica: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            settings: Mutex::new(PoolSettings {
                max_replica,
                ..PoolSettings::default()
            }),
            made: AtomicUsize::new(1),
            served: AtomicUsize::new(0),
        })
    }

    fn set_max(self: &Arc<Self>, max_replica: usize) {
        self.settings.lock().unwrap().max_replica = max_replica;
        self.drop_surplus();
        self.start_waiters();
    }

    fn request(self: &Arc<Self>, fate: Fate) {
        let mut lease = match self.request_place(Traffic::Sync, Instant::now()) {
            PlaceRequest::Granted(lease) => lease,
            PlaceRequest::Queued(queued) => match fate {
                GivesUp => return drop(queued),
                _ => block_on(queued.wait()).expect("the pool is open"),
            },
            PlaceRequest::Rejected => panic!("the queue is long enough"),
        };
        let new = || Box::new(self.made.fetch_add(1, Ordering::SeqCst));
        let replica = lease.replica.take().unwrap_or_else(new);
        self.served.fetch_add(1, Ordering::SeqCst);
        thread::yield_now();
        match fate {
            Crashes => drop(lease),
            _ => lease.give_back(replica),
        }
    }
}

#[derive(Clone, Copy)]
enum Fate {
    Ends,
    Crashes,
    GivesUp,
}

/// Runs requests side by side, beside changes of the maximum, and looks at what is left.
fn together(max: usize, fates: &'static [Fate], changes: &'static [usize]) {
    let pool = Pool::new(max);
    let mut threads: Vec<_> = fates
        .iter()
        .map(|fate| {
            let pool = pool.clone();
            thread::spawn(move || pool.request(*fate))
        })
        .collect();
    let changed = pool.clone();
    threads.push(thread::spawn(move || {
        for max in changes {
            changed.set_max(*max);
        }
    }));
    for thread in threads {
        thread.join().unwrap();
    }
    let counts = pool.with_state(|state| state.counts());
    assert_eq!((counts.busy, counts.waiting), (0, 0), "{counts:?}");
    let max = pool.current_settings().max_replica;
    assert!(counts.idle <= max, "{counts:?}, but {max} at most");
    let patient = fates.iter().filter(|fate| !matches!(fate, GivesUp)).count();
    assert!(pool.served.load(Ordering::SeqCst) >= patient);
}

use Fate::{Crashes, Ends, GivesUp};

#[test]
fn nobody_who_waits_is_forgotten() {
    const FATES: &[Fate] = &[Ends, Crashes, Ends, GivesUp, Crashes, Ends];
    shuttle::check_random(|| together(1, FATES, &[]), 2_000);
    shuttle::check_pct(|| together(2, FATES, &[]), 2_000, 3);
}

#[test]
fn nobody_who_waits_is_forgotten_while_the_maximum_changes() {
    const FATES: &[Fate] = &[Ends, Crashes, Ends, GivesUp, Ends];
    shuttle::check_random(|| together(1, FATES, &[3, 1, 2]), 2_000);
    shuttle::check_pct(|| together(3, FATES, &[1, 2]), 2_000, 3);
}

#[test]
fn who_waits_has_new_room_at_once_and_not_only_when_another_ends() {
    let round = || {
        let pool = Pool::new(1);
        let (done, waited_for) = futures::channel::oneshot::channel();
        let PlaceRequest::Granted(mut first) = pool.request_place(Traffic::Sync, Instant::now())
        else {
            panic!("there is room for the first")
        };
        let second = pool.clone();
        let second = thread::spawn(move || {
            second.request(Ends);
            done.send(()).unwrap();
        });
        let changed = pool.clone();
        let changed = thread::spawn(move || changed.set_max(2));
        // The first ends only after the second.
        block_on(waited_for).unwrap();
        assert!(first.replica.take().is_none());
        drop(first);
        second.join().unwrap();
        changed.join().unwrap();
        let counts = pool.with_state(|state| state.counts());
        assert_eq!((counts.busy, counts.waiting), (0, 0), "{counts:?}");
    };
    shuttle::check_random(round, 2_000);
    shuttle::check_pct(round, 2_000, 3);
}

#[test]
fn a_replica_that_comes_back_while_the_maximum_grows_is_not_taken_for_one_too_many() {
    let round = || {
        let pool = Pool::new(1);
        let PlaceRequest::Granted(first) = pool.request_place(Traffic::Sync, Instant::now()) else {
            panic!("there is room for the first")
        };
        let queued = || match pool.request_place(Traffic::Sync, Instant::now()) {
            PlaceRequest::Queued(queued) => queued,
            _ => panic!("there is room for one"),
        };
        let (second, third) = (queued(), queued());
        let changed = pool.clone();
        let changed = thread::spawn(move || changed.set_max(2));
        let ends = thread::spawn(move || first.give_back(Box::new(1)));
        // The second keeps its place: the third has the other one, whichever comes first.
        let second = block_on(second.wait()).expect("the pool is open");
        let third = block_on(third.wait()).expect("the pool is open");
        drop((second, third));
        changed.join().unwrap();
        ends.join().unwrap();
        let counts = pool.with_state(|state| state.counts());
        assert_eq!((counts.busy, counts.waiting), (0, 0), "{counts:?}");
    };
    shuttle::check_random(round, 2_000);
    shuttle::check_pct(round, 2_000, 3);
}
