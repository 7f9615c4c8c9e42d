//! Which graphs are on a card or in memory, and which of them go to make room: decisions without effects.

use std::collections::BTreeMap;

/// A graph that uses a card, whether it is there just now or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tenant(pub u64);

/// The graphs on one card.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    residents: BTreeMap<Tenant, Resident>,
    /// Grows with each use.
    clock: u64,
}

/// A graph that is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    pub bytes: u64,
    /// Runs that go on.
    pub running: usize,
    /// Grows with each use of any graph.
    pub last_used: u64,
}

/// What must happen before a graph can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Nothing: there is room.
    Free,
    /// These go first, the one that was not used for longest before the others.
    Evict(Vec<Tenant>),
    /// Graphs that run just now have to end, and then go.
    AfterRuns,
    /// It does not fit even when every other graph is gone.
    Never {
        /// What could be had at most.
        available_bytes: u64,
    },
}

/// What has to happen among these graphs so that `bytes` can be loaded where `free` bytes are free now.
pub(crate) fn room<'a>(
    bytes: u64,
    free: u64,
    residents: impl Iterator<Item = (&'a Tenant, &'a Resident)> + Clone,
) -> Room {
    if bytes <= free {
        return Room::Free;
    }
    let all: u64 = residents.clone().map(|(_, one)| one.bytes).sum();
    let available_bytes = free.saturating_add(all);
    if bytes > available_bytes {
        return Room::Never { available_bytes };
    }
    let mut idle: Vec<_> = residents.filter(|(_, one)| one.running == 0).collect();
    idle.sort_by_key(|(_, one)| one.last_used);
    let mut freed = free;
    let mut evicted = Vec::new();
    for (tenant, one) in idle {
        evicted.push(*tenant);
        freed = freed.saturating_add(one.bytes);
        if bytes <= freed {
            return Room::Evict(evicted);
        }
    }
    Room::AfterRuns
}

impl Ledger {
    /// What has to happen so that `bytes` can be loaded on a card of which `free` bytes are free now.
    pub fn room(&self, bytes: u64, free: u64) -> Room {
        room(bytes, free, self.residents.iter())
    }

    /// Notes a graph that was loaded, and runs.
    pub fn entered(&mut self, tenant: Tenant, bytes: u64) {
        self.clock += 1;
        self.residents.insert(
            tenant,
            Resident {
                bytes,
                running: 1,
                last_used: self.clock,
            },
        );
    }

    /// Notes that a graph runs; false when it is not on the card and has to be loaded.
    pub fn runs(&mut self, tenant: Tenant) -> bool {
        self.clock += 1;
        let Some(resident) = self.residents.get_mut(&tenant) else {
            return false;
        };
        resident.running += 1;
        resident.last_used = self.clock;
        true
    }

    /// Notes that one of its runs ended.
    pub fn ran(&mut self, tenant: Tenant) {
        if let Some(resident) = self.residents.get_mut(&tenant) {
            resident.running = resident.running.saturating_sub(1);
        }
    }

    /// Notes that a graph is gone.
    pub fn left(&mut self, tenant: Tenant) {
        self.residents.remove(&tenant);
    }

    /// Every graph that does not run.
    pub fn idle(&self) -> Vec<Tenant> {
        let idle = self.residents.iter().filter(|(_, one)| one.running == 0);
        idle.map(|(tenant, _)| *tenant).collect()
    }

    /// Bytes of the graphs that are there.
    pub fn bytes(&self) -> u64 {
        self.residents.values().map(|one| one.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Tenant = Tenant(1);
    const B: Tenant = Tenant(2);
    const C: Tenant = Tenant(3);

    /// A, B and C of 10 bytes each, loaded in this order and idle.
    fn three() -> Ledger {
        let mut ledger = Ledger::default();
        for tenant in [A, B, C] {
            ledger.entered(tenant, 10);
            ledger.ran(tenant);
        }
        ledger
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut ledger = three();
        assert_eq!(ledger.room(5, 5), Room::Free);
        assert_eq!(ledger.room(6, 5), Room::Evict(vec![A]));
        assert!(ledger.runs(A));
        ledger.ran(A);
        assert_eq!(ledger.room(6, 5), Room::Evict(vec![B]));
        assert_eq!(ledger.room(25, 5), Room::Evict(vec![B, C]));
        assert_eq!(ledger.room(35, 5), Room::Evict(vec![B, C, A]));
        assert_eq!(ledger.bytes(), 30);
    }

    #[test]
    fn what_runs_stays() {
        let mut ledger = three();
        assert!(ledger.runs(A));
        assert!(ledger.runs(A));
        assert_eq!(ledger.room(15, 5), Room::Evict(vec![B]));
        assert_eq!(ledger.room(35, 5), Room::AfterRuns);
        assert_eq!(ledger.idle(), [B, C]);
        ledger.ran(A);
        assert_eq!(ledger.room(35, 5), Room::AfterRuns);
        ledger.ran(A);
        assert_eq!(ledger.room(35, 5), Room::Evict(vec![B, C, A]));
    }

    #[test]
    fn what_fits_on_no_empty_card_is_refused() {
        let mut ledger = three();
        assert_eq!(
            ledger.room(36, 5),
            Room::Never {
                available_bytes: 35
            }
        );
        assert!(ledger.runs(B));
        assert_eq!(
            ledger.room(36, 5),
            Room::Never {
                available_bytes: 35
            }
        );
        assert_eq!(
            Ledger::default().room(6, 5),
            Room::Never { available_bytes: 5 }
        );
    }

    #[test]
    fn what_left_has_to_be_loaded_again() {
        let mut ledger = three();
        ledger.left(A);
        assert!(!ledger.runs(A));
        ledger.ran(A);
        assert_eq!(ledger.bytes(), 20);
        ledger.entered(A, 12);
        assert_eq!(ledger.room(1, 0), Room::Evict(vec![B]));
        assert_eq!(ledger.bytes(), 32);
    }
}
