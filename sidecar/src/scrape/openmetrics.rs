//! Our own metrics in the words of OpenMetrics: a counter is named without its `_total`, and quotes in a help text are
//! escaped. Ours have no timestamps, no exemplars, and no type that the one format knows and the other does not.

/// Of the text format, as [`prometheus::TextEncoder`] writes it: a family's `HELP`, its `TYPE`, its samples.
pub(super) fn of_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
            continue;
        }
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) else {
            out += line;
            out.push('\n');
            continue;
        };
        let (family, kind) = match (kind, name.strip_suffix("_total")) {
            ("counter", Some(family)) => (family, "counter"),
            // One that is not named like a counter cannot be called one here.
            ("counter", None) | ("untyped", _) => (name, "unknown"),
            (kind, _) => (name, kind),
        };
        if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
            out += &format!("# HELP {family} {}\n", words.replace('"', "\\\""));
        }
        out += &format!("# TYPE {family} {kind}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

    use super::super::{Format, lines};
    use super::of_text;

    #[test]
    fn our_families_keep_their_samples_and_a_counter_loses_its_suffix_in_its_name() {
        let registry = Registry::new();
        let counter = IntCounterVec::new(Opts::new("signet_a_total", "Says \"a\"."), &["x"]).unwrap();
        counter.with_label_values(&["q\"\\\n"]).inc();
        let gauge = IntGauge::new("signet_b", "B").unwrap();
        let histogram =
            Histogram::with_opts(HistogramOpts::new("signet_c_seconds", "C").buckets(vec![0.5])).unwrap();
        histogram.observe(0.1);
        registry.register(Box::new(counter)).unwrap();
        registry.register(Box::new(gauge)).unwrap();
        registry.register(Box::new(histogram)).unwrap();
        let text = signet_daemon::Exposition::text(&registry).unwrap().body;
        let text = std::str::from_utf8(&text).unwrap();
        let made = of_text(text);
        assert_eq!(
            made,
            "# HELP signet_a Says \\\"a\\\".\n# TYPE signet_a counter\nsignet_a_total{x=\"q\\\"\\\\\\n\"} 1\n\
             # HELP signet_b B\n# TYPE signet_b gauge\nsignet_b 0\n\
             # HELP signet_c_seconds C\n# TYPE signet_c_seconds histogram\nsignet_c_seconds_bucket{le=\"0.5\"} 1\n\
             signet_c_seconds_bucket{le=\"+Inf\"} 1\nsignet_c_seconds_sum 0.1\nsignet_c_seconds_count 1\n"
        );
        // What reads the app's reads ours, but for the names.
        for (text, format) in [(text, Format::Text), (made.as_str(), Format::OpenMetrics)] {
            let others = text.replace("signet_", "other_");
            assert_eq!(lines::sound(others.as_bytes(), format).unwrap().text, others);
        }
    }
}
