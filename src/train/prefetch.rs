//! Prefetching: several threads load the next batches while the networks compute.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;

/// Loading threads, each with one batch. So the disk has 16 reads to serve at a time.
const THREADS: usize = 16;

/// Batches in the order of their draws, loaded ahead of time.
pub struct Prefetch<D, P, B> {
    draw: D,
    threads: [(Sender<P>, Receiver<B>); THREADS],
    /// The thread that loads the next batch to be returned.
    next: usize,
}

impl<D: FnMut() -> P, P: Send, B: Send> Prefetch<D, P, B> {
    /// Starts loading batches. `draw` returns the plan of the next batch; `load` reads the batch of
    /// a plan on one of the threads.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        mut draw: D,
        load: impl Fn(P) -> B + Copy + Send + 'scope,
    ) -> Self
    where
        P: 'scope,
        B: 'scope,
    {
        let threads = std::array::from_fn(|_| {
            let (request, requests) = channel();
            let (send, batches) = channel();
            // The thread ends when `Prefetch` is dropped, which closes both channels.
            scope.spawn(move || {
                for plan in requests {
                    if send.send(load(plan)).is_err() {
                        break;
                    }
                }
            });
            _ = request.send(draw());
            (request, batches)
        });
        Prefetch { draw, threads, next: 0 }
    }

    /// Returns the next batch, as soon as it is loaded.
    pub fn next_batch(&mut self) -> B {
        // Round robin keeps the order: each thread returns its batches in the order of its
        // requests.
        let (request, batches) = &self.threads[self.next];
        let batch = batches.recv().expect("the thread loads while its requests are open");
        _ = request.send((self.draw)());
        self.next = (self.next + 1) % THREADS;
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn batches_arrive_in_the_order_of_their_draws() {
        let load_slowly = |number: u64| {
            std::thread::sleep(Duration::from_millis(number % 3 * 5));
            number * number
        };
        let mut number = 0;
        let draw = || {
            number += 1;
            number
        };
        let loaded: Vec<u64> = std::thread::scope(|scope| {
            let mut batches = Prefetch::start(scope, draw, load_slowly);
            (0..20).map(|_| batches.next_batch()).collect()
        });
        assert_eq!(loaded, (1..=20).map(|number| number * number).collect::<Vec<_>>());
    }
}
