//! Measures the time per block of the system allocator and of this one. In one case a thread frees
//! its own blocks. In the other one thread allocates blocks and a second one frees them. With musl
//! the results show why this crate exists.

use allocator::PerThread;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::io::Write;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

/// Number of blocks per thread.
const BLOCKS: usize = 2_000_000;
/// Number of blocks that a thread holds at a time. A record of the bank has some dozens of blocks.
const HELD: usize = 32;

struct Block(*mut u8, Layout);

// SAFETY: the value owns the block.
unsafe impl Send for Block {}

fn allocate<A: GlobalAlloc>(allocator: &A, index: usize) -> Block {
    let layout = Layout::from_size_align(8 + index * 37 % 200, 8).expect("both fit");
    // SAFETY: the size is not zero.
    let block = unsafe { allocator.alloc(layout) };
    // SAFETY: the block has at least eight bytes.
    unsafe { block.write_bytes(1, 8) };
    Block(block, layout)
}

fn free<A: GlobalAlloc>(allocator: &A, block: &Block) {
    // SAFETY: this allocator returned the block for this layout.
    unsafe { allocator.dealloc(block.0, block.1) };
}

fn own<A: GlobalAlloc>(allocator: &A) {
    for round in 0..BLOCKS / HELD {
        let blocks: [Block; HELD] = std::array::from_fn(|n| allocate(allocator, round + n));
        blocks.iter().for_each(|block| free(allocator, block));
    }
}

fn handed_over<A: GlobalAlloc + Copy + Send + 'static>(allocator: A) {
    let (send, receive) = sync_channel::<[Block; HELD]>(16);
    let freeing = thread::spawn(move || {
        for blocks in receive {
            blocks.iter().for_each(|block| free(&allocator, block));
        }
    });
    for round in 0..BLOCKS / HELD {
        send.send(std::array::from_fn(|n| allocate(&allocator, round + n)))
            .expect("the receiver is open");
    }
    drop(send);
    freeing.join().expect("the thread does not panic");
}

/// Returns the CPU time of this process, seconds.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    stat.split_whitespace()
        .skip(13)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

/// Name, number of threads, and work of each thread.
type Case<A> = (&'static str, usize, fn(A));

fn measure<A: GlobalAlloc + Copy + Send + 'static>(name: &str, allocator: A) {
    let cases: [Case<A>; 3] = [
        ("1 thread, own blocks", 1, |allocator| own(&allocator)),
        ("2 threads, own blocks", 2, |allocator| own(&allocator)),
        ("1 pair of threads", 1, handed_over),
    ];
    for (what, threads, work) in cases {
        let (since, used) = (Instant::now(), cpu());
        let running: Vec<_> =
            (0..threads).map(|_| thread::spawn(move || work(allocator))).collect();
        running.into_iter().for_each(|thread| thread.join().expect("no thread panics"));
        let blocks = (threads * BLOCKS) as f64;
        let _ = writeln!(
            std::io::stdout(),
            "{name:<10} {what:<21} {:>6.0} ns of time and {:>6.0} ns of CPU per block",
            since.elapsed().as_secs_f64() * 1e9 / blocks,
            (cpu() - used) * 1e9 / blocks
        );
    }
}

fn main() {
    measure("system", System);
    measure("per thread", PerThread);
}
