//! What happens to operators: each event is one log line and one metric together.

/// An operator failed at something.
pub(super) struct OperatorFailed<'a> {
    pub id: &'a str,
    /// What it failed at: `record`, `source`, `build` and so on.
    pub stage: &'static str,
    pub error: &'a str,
}

impl OperatorFailed<'_> {
    pub fn emit(self) {
        let Self { id, stage, error } = self;
        metrics::counter!("penstock_component_errors_total", "component_id" => id.to_owned(), "stage" => stage)
            .increment(1);
        tracing::warn!(operator = id, what = stage, error, "Operator failed; it will be tried again.");
    }
}
