//! Batches ahead of the networks: what to copy is decided in order, several threads copy, and batches come back in order.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;

/// Threads that copy, a batch each: as many reads wait for the disk at a time.
const THREADS: usize = 16;

/// Batches that are being copied.
pub struct Ahead<D, P, B> {
    decide: D,
    threads: [(Sender<P>, Receiver<B>); THREADS],
    /// Whose batch is next.
    turn: usize,
}

impl<D: FnMut() -> P, P: Send, B: Send> Ahead<D, P, B> {
    /// Starts to copy: `decide` says what the next batch is of, `copy` makes the batch.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        mut decide: D,
        copy: impl Fn(P) -> B + Copy + Send + 'scope,
    ) -> Self
    where
        P: 'scope,
        B: 'scope,
    {
        let threads = std::array::from_fn(|_| {
            let ((ask, asked), (give, given)) = (channel(), channel());
            scope.spawn(move || asked.into_iter().try_for_each(|what| give.send(copy(what))));
            _ = ask.send(decide());
            (ask, given)
        });
        Ahead { decide, threads, turn: 0 }
    }

    /// The next batch, when it is there.
    pub fn wait(&mut self) -> B {
        let (ask, given) = &self.threads[self.turn];
        let batch = given.recv().expect("a thread copies for as long as it is asked");
        _ = ask.send((self.decide)());
        self.turn = (self.turn + 1) % THREADS;
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn batches_come_in_the_order_in_which_they_were_decided() {
        let slow = |number: u64| {
            std::thread::sleep(Duration::from_millis(number % 3 * 5));
            number * number
        };
        let mut number = 0;
        let decide = || {
            number += 1;
            number
        };
        let got: Vec<u64> = std::thread::scope(|scope| {
            let mut ahead = Ahead::start(scope, decide, slow);
            (0..20).map(|_| ahead.wait()).collect()
        });
        assert_eq!(got, (1..=20).map(|number| number * number).collect::<Vec<_>>());
    }
}
