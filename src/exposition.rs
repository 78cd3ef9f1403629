//! Conversion of metrics from OpenMetrics to the older Prometheus text format (version 0.0.4).

/// Converts OpenMetrics text to Prometheus text. A counter is declared under the name of its sample; units and the end
/// mark are dropped.
pub fn prometheus(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(described) = line.strip_prefix("# HELP ") {
            // Its name depends on the type, which comes next.
            help = described.split_once(' ').map(|(_, help)| help);
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|declared| declared.split_once(' ')) {
            let (end, kind) = match kind {
                "counter" => ("_total", kind),
                // A counter that is read elsewhere and set here; the library has only gauges for that.
                "gauge" if name.ends_with("_total") => ("", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some(help) = help.take() {
                text.push_str(&format!("# HELP {name}{end} {help}\n"));
            }
            text.push_str(&format!("# TYPE {name}{end} {kind}\n"));
            continue;
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_declared_by_their_samples_names() {
        let openmetrics = "# HELP sent Messages.\n# TYPE sent counter\n# UNIT sent messages\nsent_total{a=\"b\"} 2\n\
                           # HELP open Now.\n# TYPE open gauge\nopen 1\n# TYPE odd unknown\nodd 3\n# TYPE cpu_total gauge\ncpu_total 4\n# EOF\n";
        let text = "# HELP sent_total Messages.\n# TYPE sent_total counter\nsent_total{a=\"b\"} 2\n\
                    # HELP open Now.\n# TYPE open gauge\nopen 1\n# TYPE odd untyped\nodd 3\n\
                    # TYPE cpu_total counter\ncpu_total 4\n";
        assert_eq!(prometheus(openmetrics), text);
    }
}
