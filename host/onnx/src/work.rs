//! What passes over a model cost, for tests: fields that were read and look-ups by name, and the bytes that were allocated.
//!
//! A pass that compares each name with each other, or copies what it knows for each node, makes loading a large model take
//! hours or all memory. Counting shows that without a clock.

#[cfg(not(test))]
pub(crate) fn step() {}

#[cfg(test)]
pub(crate) use counted::{count, step};

#[cfg(test)]
mod counted {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static STEPS: Cell<u64> = const { Cell::new(0) };
        static BYTES: Cell<u64> = const { Cell::new(0) };
    }

    /// One field, or one comparison of names.
    pub(crate) fn step() {
        STEPS.set(STEPS.get() + 1);
    }

    /// The steps that this takes, and the bytes that it allocates.
    pub(crate) fn count(work: impl FnOnce()) -> (u64, u64) {
        let before = (STEPS.get(), BYTES.get());
        work();
        (STEPS.get() - before.0, BYTES.get() - before.1)
    }

    struct Counting;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    // SAFETY: it does what the system's does.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            BYTES.set(BYTES.get() + layout.size() as u64);
            // SAFETY: the caller's promise.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            // SAFETY: the caller's promise.
            unsafe { System.dealloc(memory, layout) }
        }
    }
}
