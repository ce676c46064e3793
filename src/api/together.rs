//! Who runs the requests of HTTP/2 connections: those that come in together are begun by one task, and only one that has to wait
//! for something gets a task of its own. To make such a task takes about as long as a look-up.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

use hyper::rt::Executor;

/// Requests that one task begins: as many as the runtime runs tasks before it looks at sockets and timers again.
const MOST: usize = 61;

/// Begins requests together.
#[derive(Clone, Debug, Default)]
pub(super) struct Together(Arc<Mutex<Batch>>);

/// A `Vec` of what waits to be begun, whose type has no name outside hyper. `None` before the first.
type Batch = Option<Box<dyn Any + Send>>;

impl Together {
    /// `None` if what is asked about is of another type than the first: the tunnel of a request to connect.
    fn batch<F: Send + 'static, T>(&self, look: impl FnOnce(&mut Vec<F>) -> T) -> Option<T> {
        let mut batch = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        batch.get_or_insert_with(|| Box::new(Vec::<F>::new())).downcast_mut().map(look)
    }
}

impl<F> Executor<F> for Together
where
    F: Future<Output = ()> + Unpin + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut future = Some(future);
        let together = || self.clone();
        self.batch(|waiting: &mut Vec<F>| {
            if waiting.is_empty() {
                tokio::spawn(begin_those_of::<F>(together()));
            }
            waiting.extend(future.take());
            if waiting.len() == MOST {
                tokio::spawn(begin_all(std::mem::replace(waiting, Vec::with_capacity(MOST))));
            }
        });
        future.map(tokio::spawn);
    }
}

/// Begins what waits by then.
async fn begin_those_of<F: Future<Output = ()> + Unpin + Send + 'static>(together: Together) {
    let mut waiting: Vec<F> = together.batch(std::mem::take).unwrap_or_default();
    waiting.drain(..).for_each(begin);
    // Its room is good for the next ones.
    together.batch(|next| {
        if next.capacity() == 0 {
            *next = waiting
        }
    });
}

async fn begin_all<F: Future<Output = ()> + Unpin + Send + 'static>(waiting: Vec<F>) {
    waiting.into_iter().for_each(begin);
}

/// Answers a request, or leaves it to a task of its own. One that panics fails alone.
fn begin<F: Future<Output = ()> + Unpin + Send + 'static>(mut future: F) {
    // Whatever would wake it is asked again by its task.
    let mut context = Context::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut future).poll(&mut context)));
    if polled.is_ok_and(|polled| polled.is_pending()) {
        tokio::spawn(future);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use tokio::sync::{Barrier, mpsc};

    use super::*;

    #[tokio::test]
    async fn all_are_run_those_that_wait_too() {
        let (together, barrier) = (Together::default(), Arc::new(Barrier::new(5 * MOST + 1)));
        let (done, mut finished) = mpsc::unbounded_channel();
        for number in 0..10 * MOST {
            let (done, barrier) = (done.clone(), Arc::clone(&barrier));
            let future: BoxFuture<'static, ()> = async move {
                if number % 2 == 0 {
                    barrier.wait().await;
                }
                done.send(number).unwrap();
            }
            .boxed();
            together.execute(future);
        }
        let mut numbers = Vec::new();
        while numbers.len() < 5 * MOST {
            numbers.push(finished.recv().await.unwrap());
        }
        assert!(numbers.iter().all(|number| number % 2 == 1), "nobody is kept by those who wait");
        barrier.wait().await;
        while numbers.len() < 10 * MOST {
            numbers.push(finished.recv().await.unwrap());
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..10 * MOST).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn one_that_panics_ends_no_other() {
        let (together, (done, mut finished)) = (Together::default(), mpsc::unbounded_channel());
        let polls = Arc::new(AtomicUsize::new(0));
        for number in 0..3 {
            let (done, polls) = (done.clone(), Arc::clone(&polls));
            let future: BoxFuture<'static, ()> = async move {
                polls.fetch_add(1, Ordering::Relaxed);
                assert_ne!(number, 1, "as intended");
                done.send(number).unwrap();
            }
            .boxed();
            together.execute(future);
        }
        let ended = (finished.recv().await, finished.recv().await);
        assert_eq!((ended, polls.load(Ordering::Relaxed)), ((Some(0), Some(2)), 3));
    }

    #[tokio::test]
    async fn another_type_of_futures_is_run_as_well() {
        let (together, (done, mut finished)) = (Together::default(), mpsc::unbounded_channel());
        let another = done.clone();
        together.execute(std::future::ready(()));
        together.execute(async move { done.send(()).unwrap() }.boxed());
        together.execute(Box::pin(async move { another.send(()).unwrap() }));
        assert_eq!((finished.recv().await, finished.recv().await), (Some(()), Some(())));
    }
}
