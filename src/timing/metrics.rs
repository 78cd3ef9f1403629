//! Metrics of requests: how many were answered, and how long they and their stages took.

use std::time::Duration;

use crate::metrics::{Buckets, Counters, Histograms, Register, Registry};

use super::Stage;

/// Metrics of the requests of all methods. Cheap to clone.
#[derive(Clone)]
pub struct RequestMetrics {
    requests: Counters<2>,
    request_seconds: Histograms<1>,
    stage_seconds: Histograms<1>,
}

impl RequestMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            requests: r.counters("http_requests", "Requests answered, by method and status"),
            request_seconds: r.seconds_by(
                "http_request_duration",
                "Time to answer a request, by method",
                Buckets::COARSE,
            ),
            stage_seconds: r.seconds_by(
                "request_stage_duration",
                "Time of a request in one stage, by stage",
                Buckets::FINE,
            ),
        }
    }

    /// Records one answered request. `method` is a known method or a fixed word, and `status` is one of the error table's.
    pub fn request(&self, method: &'static str, status: u16, took: Duration) {
        let status = match status {
            200 => "200",
            400 => "400",
            401 => "401",
            403 => "403",
            404 => "404",
            405 => "405",
            409 => "409",
            410 => "410",
            413 => "413",
            429 => "429",
            501 => "501",
            503 => "503",
            _ => "500",
        };
        self.requests.get_or_create(&[("method", method), ("status", status)]).inc();
        self.request_seconds.get_or_create(&[("method", method)]).observe(took.as_secs_f64());
    }

    /// Records one stage of an answered request.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stage_seconds.get_or_create(&[("stage", stage.name())]).observe(took.as_secs_f64());
    }
}
