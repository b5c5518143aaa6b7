//! A few threads that share the tasks of one operation at a time.
//!
//! Owns waking, claiming and waiting. Must not know what a task computes. Tasks are claimed dynamically, so which
//! thread runs a task is left to chance; an operation whose tasks are cut by shape alone gives the same bits with any
//! number of threads. Nothing here allocates or takes a lock after construction, except to carry a panic.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// Turns of the waiting loop before a thread gives up its core: some tens of microseconds, about the distance between
/// two parallel operations.
const SPINS: u32 = 4000;

/// The tasks of one operation: called with the number of the task and of the thread.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

struct Shared {
    /// The open job; only read between a worker's entry and exit.
    job: UnsafeCell<Option<*const Task<'static>>>,
    /// How many tasks it has. Written together with `job`.
    tasks: AtomicUsize,
    /// The next task to claim.
    next: AtomicUsize,
    /// Number of the open job; 0 while none is open.
    open: AtomicUsize,
    /// Workers between entry and exit.
    active: AtomicUsize,
    /// Set when the pool is dropped.
    stop: AtomicBool,
    /// What the first task to panic threw.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only by the thread in `Pool::run` while no job is open and no worker is active, and read only
// by workers that have announced themselves in `active` and then found the job open (see `Shared::work`).
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` closure that outlives the open job.
unsafe impl Send for Shared {}

struct Worker {
    thread: Thread,
    parked: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

/// Threads that run tasks together with the caller.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    busy: AtomicBool,
    jobs: AtomicUsize,
}

impl Pool {
    /// A pool of `threads` threads, the caller of [`Pool::run`] included. `start` runs first on each new thread.
    pub(crate) fn new(threads: usize, start: fn()) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(None),
            tasks: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        // Made first, so that workers started before a failure are stopped by dropping the pool.
        let mut pool = Pool {
            shared,
            workers: Vec::new(),
            busy: AtomicBool::new(false),
            jobs: AtomicUsize::new(0),
        };
        for worker in 1..threads {
            let (shared, parked) = (pool.shared.clone(), Arc::new(AtomicBool::new(false)));
            let flag = parked.clone();
            let handle =
                thread::Builder::new().name(format!("colac-cpu-{worker}")).spawn(move || {
                    start();
                    shared.serve(worker, &flag);
                })?;
            pool.workers.push(Worker {
                thread: handle.thread().clone(),
                parked,
                handle: Some(handle),
            });
        }
        Ok(pool)
    }

    /// Threads that take part.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i, thread)` for every `i` below `tasks` and returns when all are done. `thread` is below
    /// [`Pool::threads`], and no two calls run at once with the same `thread`. A panic in a task is thrown here.
    pub(crate) fn run(&self, tasks: usize, task: &Task<'_>) {
        assert!(!self.busy.swap(true, Ordering::Acquire), "tasks must not start tasks");
        let shared = &*self.shared;
        if tasks <= 1 || self.workers.is_empty() {
            let result = catch_unwind(AssertUnwindSafe(|| (0..tasks).for_each(|i| task(i, 0))));
            self.busy.store(false, Ordering::Release);
            return result.unwrap_or_else(|payload| resume_unwind(payload));
        }
        // SAFETY: only the lifetime changes. The pointer is taken back below, before `task` can end: the job is closed,
        // and every worker that saw it open has left. `job` is not shared now: no job is open (`busy`), and the last
        // call waited until no worker was active.
        unsafe {
            *shared.job.get() =
                Some(std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task));
        }
        shared.tasks.store(tasks, Ordering::Relaxed);
        shared.next.store(0, Ordering::Relaxed);
        // Skips 0, which means closed.
        let job = (self.jobs.fetch_add(1, Ordering::Relaxed) << 1) | 1;
        shared.open.store(job, Ordering::SeqCst);
        for worker in &self.workers {
            if worker.parked.swap(false, Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
        shared.claim(task, 0);
        shared.open.store(0, Ordering::SeqCst);
        let mut turns = 0;
        while shared.active.load(Ordering::SeqCst) != 0 {
            pause(&mut turns);
        }
        let payload = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.busy.store(false, Ordering::Release);
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }
}

/// Waits a moment; after many turns gives the core to another thread, in case more threads than cores are running.
fn pause(turns: &mut u32) {
    *turns += 1;
    if *turns < SPINS {
        std::hint::spin_loop();
    } else {
        thread::yield_now();
    }
}

impl Shared {
    /// Claims and runs tasks until none is left. Never unwinds.
    fn claim(&self, task: &Task<'_>, thread: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let tasks = self.tasks.load(Ordering::Relaxed);
            loop {
                let i = self.next.fetch_add(1, Ordering::Relaxed);
                if i >= tasks {
                    return;
                }
                task(i, thread);
            }
        }));
        if let Err(payload) = result {
            // The others find nothing left to claim.
            self.next.store(usize::MAX / 2, Ordering::Relaxed);
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
    }

    /// The life of a worker: waits for a job it has not seen, helps with it.
    fn serve(&self, thread: usize, parked: &AtomicBool) {
        let mut seen = 0;
        loop {
            let mut turns = 0;
            loop {
                if self.stop.load(Ordering::Acquire) {
                    return;
                }
                let open = self.open.load(Ordering::SeqCst);
                if open != 0 && open != seen {
                    seen = open;
                    break;
                }
                turns += 1;
                if turns < SPINS {
                    std::hint::spin_loop();
                    continue;
                }
                parked.store(true, Ordering::SeqCst);
                let open = self.open.load(Ordering::SeqCst);
                if (open == 0 || open == seen) && !self.stop.load(Ordering::SeqCst) {
                    thread::park();
                }
                parked.store(false, Ordering::SeqCst);
                turns = 0;
            }
            self.work(seen, thread);
        }
    }

    /// Enters, helps if the job is still open, leaves.
    fn work(&self, job: usize, thread: usize) {
        self.active.fetch_add(1, Ordering::SeqCst);
        // In the one order of sequentially consistent operations this load comes before the caller's closing store if it
        // finds the job open; the caller's later loads of `active` then see this worker and wait for it.
        if self.open.load(Ordering::SeqCst) == job {
            // SAFETY: the job is open and cannot be replaced or end before this worker leaves, as said above. The store
            // to `open` that was just read was made after `job` was written.
            let task = unsafe { (*self.job.get()).map(|task| &*task) };
            if let Some(task) = task {
                self.claim(task, thread);
            }
        }
        self.active.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // A worker's own panic cannot happen: tasks are caught.
                let _ = handle.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_and_threads_are_apart() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads, || {}).unwrap();
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let inside: Vec<AtomicBool> =
                    (0..threads).map(|_| AtomicBool::new(false)).collect();
                pool.run(tasks, &|i, thread| {
                    assert!(!inside[thread].swap(true, Ordering::SeqCst));
                    counts[i].fetch_add(1, Ordering::SeqCst);
                    inside[thread].store(false, Ordering::SeqCst);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::SeqCst) == 1));
            }
        }
    }

    #[test]
    fn many_short_jobs_in_a_row_lose_nothing() {
        let pool = Pool::new(3, || {}).unwrap();
        let total = AtomicUsize::new(0);
        for _ in 0..5000 {
            pool.run(3, &|i, _| {
                total.fetch_add(i, Ordering::Relaxed);
            });
        }
        assert_eq!(total.load(Ordering::Relaxed), 15_000);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3, || {}).unwrap();
        for _ in 0..20 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(50, &|i, _| assert!(i != 17, "seventeen"))
            }));
            let payload = result.unwrap_err();
            assert!(payload.downcast_ref::<&str>().is_some_and(|text| text.contains("seventeen")));
            let count = AtomicUsize::new(0);
            pool.run(50, &|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.load(Ordering::Relaxed), 50);
        }
    }
}
