//! What happens on the way to AWS: each event is one log line and one metric together.

/// An object came or went damaged, or was cut; it is moved again while tries are left.
pub(super) struct ObjectDamaged<'a> {
    pub object: &'a str,
    pub action: &'static str,
    pub tries: u32,
    pub error: &'a str,
}

impl ObjectDamaged<'_> {
    pub fn emit(self) {
        let Self { object, action, tries, error } = self;
        metrics::counter!("penstock_aws_requests_total", "action" => action, "outcome" => "damaged").increment(1);
        tracing::warn!(object, tries, error, "Object damaged on the way.");
    }
}
