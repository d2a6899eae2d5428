//! Several reports at once: each does and is answered for itself.

use super::api::ApiError;

/// The most reports in one batch.
pub const MAX_REPORTS: usize = 1000;

/// Whether so many may come at once.
pub fn check_batch(reports: usize) -> Result<(), ApiError> {
    if reports > MAX_REPORTS {
        return Err(ApiError::TooManyReports(reports));
    }
    Ok(())
}

/// Does all of it at the same time and answers in the order that it came in; `None`: it panicked.
///
/// Each is a task of its own, so that all of them are done although the caller hangs up.
pub async fn do_each<F, T>(reports: impl IntoIterator<Item = F>) -> Vec<Option<T>>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let tasks: Vec<_> = reports.into_iter().map(tokio::spawn).collect();
    let mut answers = Vec::with_capacity(tasks.len());
    for task in tasks {
        answers.push(task.await.ok());
    }
    answers
}
