//! Threads that run the work of clients. Work that may block has a bounded queue, in which clients
//! take turns. Tasks never block; they run when they are woken.

use crate::turns::Turns;
use service::http::{client_of, client_share};
use service::panic_guard::guarded;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// Stack size of a thread: four times the need of the deepest query within the limits.
const STACK_BYTES: usize = 256 << 10;

/// Why work is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// This client has too much work in the queue.
    Client,
    /// The queue is full, or the work has waited too long.
    All,
}

/// Work for a client. It is also called if it will not be done, so that the client gets an answer.
pub type Job = Box<dyn FnOnce(Result<(), Busy>) + Send>;

/// The limits of a [`Pool`].
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    pub threads: usize,
    /// Maximum of jobs in the queue. One client can have three quarters of it, and of the threads.
    pub waiting: usize,
    /// Maximum size of the jobs in the queue together, bytes. One client can have three quarters.
    pub waiting_bytes: usize,
    /// Maximum time in the queue.
    pub wait: Duration,
}

/// Threads for work that may block.
pub struct Pool {
    limits: PoolLimits,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Jobs with their time of arrival and their size.
    waiting: Turns<(Instant, usize, Job)>,
    waiting_count: usize,
    waiting_bytes: usize,
    clients: HashMap<IpAddr, ClientLoad>,
}

/// What a client has in the pool; removed when it is nothing.
#[derive(Default, PartialEq, Eq)]
struct ClientLoad {
    waiting_bytes: usize,
    running: usize,
}

impl Pool {
    pub fn start(name: &str, limits: PoolLimits) -> io::Result<Arc<Self>> {
        let pool = Arc::new(Self { limits, state: Mutex::default(), changed: Condvar::new() });
        for _ in 0..limits.threads {
            let pool = pool.clone();
            thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(move || {
                loop {
                    pool.run_next()
                }
            })?;
        }
        Ok(pool)
    }

    /// Queues `job`, which needs about `bytes` of memory. If the queue is full, the job is called
    /// at once with an error.
    pub fn submit(&self, client: IpAddr, bytes: usize, job: Job) {
        let client = client_of(client);
        let PoolLimits { waiting: count_max, waiting_bytes: bytes_max, .. } = self.limits;
        let mut state = self.state();
        let own_count = state.waiting.count(client);
        let own_bytes = state.clients.get(&client).map_or(0, |own| own.waiting_bytes);
        let busy = if state.waiting_count >= count_max || state.waiting_bytes + bytes > bytes_max {
            Some(Busy::All)
        } else if own_count >= client_share(count_max)
            || own_bytes + bytes > client_share(bytes_max)
        {
            Some(Busy::Client)
        } else {
            None
        };
        if let Some(busy) = busy {
            drop(state);
            return job(Err(busy));
        }
        state.waiting.push(client, (Instant::now(), bytes, job));
        state.waiting_count += 1;
        state.waiting_bytes += bytes;
        state.clients.entry(client).or_default().waiting_bytes += bytes;
        self.changed.notify_one();
    }

    fn run_next(&self) {
        let mut state = self.state();
        let (client, since, job) = loop {
            match state.take(client_share(self.limits.threads)) {
                Some(next) => break next,
                None => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(state);
        let is_late = since.elapsed() > self.limits.wait;
        // The guard logs a panic. The client gets the response of its dropped transport.
        guarded(|| job(if is_late { Err(Busy::All) } else { Ok(()) }));
        self.state().change(client, |own| own.running -= 1);
        // A job of this client may have waited only for this thread.
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next job, of the first client in turn that has fewer than `running_max` running.
    fn take(&mut self, running_max: usize) -> Option<(IpAddr, Instant, Job)> {
        let Self { waiting, clients, .. } = self;
        let may_run = |it: &IpAddr| clients.get(it).is_none_or(|own| own.running < running_max);
        let (client, (since, bytes, job)) = waiting.take(may_run)?;
        self.waiting_count -= 1;
        self.waiting_bytes -= bytes;
        self.change(client, |own| {
            own.waiting_bytes -= bytes;
            own.running += 1;
        });
        Some((client, since, job))
    }

    fn change(&mut self, client: IpAddr, change: impl FnOnce(&mut ClientLoad)) {
        let own = self.clients.entry(client).or_default();
        change(own);
        if *own == ClientLoad::default() {
            self.clients.remove(&client);
        }
    }
}

/// Threads for tasks, which never block.
pub struct Tasks {
    ready: Mutex<VecDeque<Arc<Task>>>,
    changed: Condvar,
}

type TaskFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task {
    tasks: Arc<Tasks>,
    /// `None` once it is done.
    future: Mutex<Option<TaskFuture>>,
    is_ready: AtomicBool,
}

impl Tasks {
    pub fn start(name: &str, threads: usize) -> io::Result<Arc<Self>> {
        let tasks = Arc::new(Self { ready: Mutex::default(), changed: Condvar::new() });
        for _ in 0..threads {
            let tasks = tasks.clone();
            thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(move || {
                loop {
                    tasks.next().run()
                }
            })?;
        }
        Ok(tasks)
    }

    /// Runs `future` until it is done. If it panics, it is dropped.
    pub fn spawn(self: &Arc<Self>, future: impl Future<Output = ()> + Send + 'static) {
        let future: TaskFuture = Box::pin(future);
        let task = Task {
            tasks: self.clone(),
            future: Mutex::new(Some(future)),
            is_ready: AtomicBool::new(false),
        };
        Arc::new(task).wake();
    }

    fn next(&self) -> Arc<Task> {
        let mut ready = self.ready();
        loop {
            match ready.pop_front() {
                Some(task) => return task,
                None => ready = self.changed.wait(ready).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Arc<Task>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    fn run(self: Arc<Self>) {
        // A wake-up from now on queues the task again.
        self.is_ready.store(false, Ordering::Release);
        let waker = Waker::from(self.clone());
        let mut future = self.future.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = &mut *future else { return };
        let poll = guarded(|| running.as_mut().poll(&mut Context::from_waker(&waker)));
        if poll != Some(Poll::Pending) {
            // The drop may end a subscription, which takes other locks.
            let done = future.take();
            drop(future);
            drop(done);
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.is_ready.swap(true, Ordering::AcqRel) {
            let tasks = self.tasks.clone();
            tasks.ready().push_back(self);
            tasks.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::mpsc::{Receiver, Sender, channel};

    const LIMITS: PoolLimits =
        PoolLimits { threads: 1, waiting: 8, waiting_bytes: 800, wait: Duration::from_secs(600) };

    fn client(n: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, n).into()
    }

    /// Occupies the only thread until the result is dropped.
    fn occupy(pool: &Pool) -> Sender<()> {
        let (busy, started) = channel();
        let (end, ended) = channel::<()>();
        let work = move |_| {
            busy.send(()).unwrap();
            let _ = ended.recv();
        };
        pool.submit(client(0), 1, Box::new(work));
        started.recv().unwrap();
        end
    }

    fn submit_all(pool: &Pool, clients: &[u8]) -> Receiver<(u8, Result<(), Busy>)> {
        let (done, results) = channel();
        for &n in clients {
            let done = done.clone();
            let job = move |admitted| done.send((n, admitted)).unwrap();
            pool.submit(client(n), 100, Box::new(job));
        }
        results
    }

    #[test]
    fn clients_take_turns() {
        let pool = Pool::start("test", LIMITS).unwrap();
        let thread = occupy(&pool);
        let results = submit_all(&pool, &[1, 1, 1, 2, 3]);
        drop(thread);
        let order: Vec<u8> = results.iter().map(|(n, _)| n).collect();
        assert_eq!(order, [1, 2, 3, 1, 1]);
    }

    #[test]
    fn full_queue_refuses_work() {
        let pool = Pool::start("test", LIMITS).unwrap();
        let thread = occupy(&pool);
        let results = submit_all(&pool, &[1, 1, 1, 1, 1, 1, 1, 2, 2, 2]);
        assert_eq!(results.recv(), Ok((1, Err(Busy::Client))));
        assert_eq!(results.recv(), Ok((2, Err(Busy::All))));
        drop(thread);
        assert_eq!(results.iter().filter(|(_, admitted)| admitted.is_ok()).count(), 8);
    }

    #[test]
    fn jobs_are_limited_by_size() {
        let pool = Pool::start("test", PoolLimits { waiting_bytes: 400, ..LIMITS }).unwrap();
        let thread = occupy(&pool);
        let results = submit_all(&pool, &[1, 1, 1, 1, 2, 2]);
        assert_eq!(results.recv(), Ok((1, Err(Busy::Client))));
        assert_eq!(results.recv(), Ok((2, Err(Busy::All))));
        drop(thread);
        assert_eq!(results.iter().filter(|(_, admitted)| admitted.is_ok()).count(), 4);
        assert!(submit_all(&pool, &[1]).recv().unwrap().1.is_ok());
    }

    #[test]
    fn late_work_is_refused() {
        let limits = PoolLimits { wait: Duration::ZERO, ..LIMITS };
        let pool = Pool::start("test", limits).unwrap();
        let thread = occupy(&pool);
        let results = submit_all(&pool, &[1]);
        drop(thread);
        assert_eq!(results.recv(), Ok((1, Err(Busy::All))));
    }

    #[test]
    fn client_leaves_a_thread_to_others() {
        let pool = Pool::start("test", PoolLimits { threads: 4, ..LIMITS }).unwrap();
        let threads = [occupy(&pool), occupy(&pool), occupy(&pool)];
        let own = submit_all(&pool, &[0]);
        assert_eq!(submit_all(&pool, &[1]).recv(), Ok((1, Ok(()))));
        assert!(own.try_recv().is_err());
        drop(threads);
        assert_eq!(own.recv(), Ok((0, Ok(()))));
    }

    #[test]
    fn panic_ends_its_job_only() {
        let pool = Pool::start("test", LIMITS).unwrap();
        pool.submit(client(1), 1, Box::new(|_| panic!("of this test")));
        assert_eq!(submit_all(&pool, &[1]).recv(), Ok((1, Ok(()))));
    }

    #[test]
    fn task_runs_when_woken() {
        let tasks = Tasks::start("test", 1).unwrap();
        let (waker, wakers) = channel();
        let (done, ended) = channel();
        tasks.spawn(async move {
            let mut polls = 0;
            std::future::poll_fn(|context| {
                polls += 1;
                waker.send(context.waker().clone()).unwrap();
                if polls == 3 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            done.send(polls).unwrap();
        });
        for _ in 0..2 {
            wakers.recv().unwrap().wake();
        }
        assert_eq!(ended.recv(), Ok(3));
        tasks.spawn(async { panic!("of this test") });
        let (done, ended) = channel();
        tasks.spawn(async move { done.send(()).unwrap() });
        assert_eq!(ended.recv(), Ok(()));
    }
}
