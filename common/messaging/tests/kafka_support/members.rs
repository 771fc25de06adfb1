//! Members of a consumer group.

use super::{PATIENCE, client};
use messaging::{Assignment, ErrorKind, KafkaClient, Position};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A member that runs on a thread until it is stopped.
pub struct Member {
    assignment: Arc<Mutex<Option<Assignment>>>,
    end: Arc<AtomicBool>,
    thread: JoinHandle<Box<dyn KafkaClient>>,
}

impl Member {
    /// Joins the group named like `topic`, which reads that topic. Commits offset 10 of the
    /// assigned partitions.
    pub fn join(topic: &'static str) -> Self {
        let (assignment, end) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let (now, ending) = (assignment.clone(), end.clone());
        let thread = thread::spawn(move || {
            let mut client = client();
            while !ending.load(Ordering::Relaxed) {
                let assignment = Some(client.poll_assignment(topic, &[topic], PATIENCE).unwrap());
                if *now.lock().unwrap() != assignment {
                    let partitions = assignment.iter().flat_map(|it| &it.partitions);
                    let next = 10;
                    let positions = partitions.map(|(_, it)| Position { partition: *it, next });
                    let committed =
                        client.commit(topic, topic, &positions.collect::<Vec<_>>(), PATIENCE);
                    if committed.as_ref().is_err_and(|err| err.kind == ErrorKind::Fenced) {
                        // The group rebalanced in the meantime.
                        continue;
                    }
                    committed.unwrap();
                    *now.lock().unwrap() = assignment;
                }
                thread::sleep(Duration::from_millis(100));
            }
            client
        });
        Self { assignment, end, thread }
    }

    pub fn assignment(&self) -> Option<Assignment> {
        self.assignment.lock().unwrap().clone()
    }

    /// Stops the thread. Returns the client, which is still a member.
    pub fn end(self) -> Box<dyn KafkaClient> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Waits until the members have `shares` partitions each, in one generation, without overlaps.
pub fn shared(members: &[&Member], shares: &[usize]) {
    let start = Instant::now();
    loop {
        let assignment: Vec<Assignment> = members.iter().filter_map(|it| it.assignment()).collect();
        let found: Vec<usize> = assignment.iter().map(|it| it.partitions.len()).collect();
        let distinct: BTreeSet<i32> = assignment
            .iter()
            .flat_map(|it| &it.partitions)
            .map(|(_, partition)| *partition)
            .collect();
        let mut sorted = found.clone();
        sorted.sort_unstable();
        let once = distinct.len() == found.iter().sum::<usize>();
        let generations: BTreeSet<i32> = assignment.iter().map(|it| it.generation).collect();
        if sorted == shares && once && generations.len() == 1 {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "shares are {found:?}, expected {shares:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
