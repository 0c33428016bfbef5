//! `show info`: the fields, their names, numbers and kinds as HAProxy has them, in each of its forms.
//!
//! Decides:  which of HAProxy's fields there are. What this program has not (pools, TLS caches,
//!           compression, peers) is left out rather than shown as 0.
//! Source:   HAProxy's management guide, chapter 9.3 `show info`, chapter 9.2 for the typed form;
//!           src/stats.c, info_fields and stats_fill_info(), 2.6.
//! Not here: where the values come from (run/asked.rs).

use std::fmt::Write as _;
use std::time::Duration;

/// How it is to be shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Form {
    shape: Shape,
    /// With a description of each field.
    described: bool,
    /// Times with fractions of a second.
    float: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Shape {
    #[default]
    Plain,
    Typed,
    Json,
}

impl Form {
    /// What the words after `show info` ask for; others are skipped, as HAProxy does.
    pub fn of(words: &[String]) -> Form {
        let mut form = Form::default();
        for word in words {
            match word.as_str() {
                "typed" => form.shape = Shape::Typed,
                "json" => form.shape = Shape::Json,
                "desc" => form.described = true,
                "float" => form.float = true,
                _ => {}
            }
        }
        form
    }
}

/// What is known of the process.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Worker threads.
    pub workers: u16,
    /// The process's number.
    pub pid: u32,
    /// Since the start.
    pub uptime: Duration,
    /// When that was, since 1970.
    pub started: Duration,
    /// The descriptor limit.
    pub descriptors: u64,
    /// `maxconn` of the process.
    pub maxconn: u32,
    /// Connections now.
    pub connections: u32,
    /// Connections since the start.
    pub total: u64,
    /// Splice pipes that there may be.
    pub most_pipes: u32,
    /// Splice pipes in use.
    pub pipes: u32,
    /// `maxconnrate`
    pub rate_limit: u32,
    /// The host's name.
    pub node: String,
    /// Asked to stop?
    pub stopping: bool,
    /// Listening sockets.
    pub listeners: usize,
    /// Log lines that nobody got.
    pub dropped_logs: u64,
    /// Bytes to clients since the start.
    pub bytes_out: u64,
}

enum Value {
    Text(String),
    U32(u64),
    U64(u64),
    /// Whole seconds, or with a fraction where that is wanted.
    Seconds(Duration),
}

/// One field: its number in HAProxy, name, origin, nature, scope, description.
struct Field {
    number: u32,
    name: &'static str,
    tags: [Tag; 3],
    doc: &'static str,
    value: fn(&Facts) -> Value,
}

/// A letter of the typed form, and its word in JSON.
type Tag = (char, &'static str);

const PRODUCT: Tag = ('P', "Product");
const CONFIG: Tag = ('C', "Config");
const KEY: Tag = ('K', "Key");
const STATUS: Tag = ('S', "Status");
const METRIC: Tag = ('M', "Metric");
const OUTPUT: Tag = ('O', "Output");
const GAUGE: Tag = ('G', "Gauge");
const DURATION: Tag = ('D', "Duration");
const LIMIT: Tag = ('L', "Limit");
const COUNTER: Tag = ('C', "Counter");
const SERVICE: Tag = ('S', "Service");
const PROCESS: Tag = ('P', "Process");

/// A list of fields, one line each.
macro_rules! fields {
    ($($number:literal $name:literal $origin:ident $nature:ident $scope:ident $doc:literal $value:expr;)*) => {
        &[$(Field {
            number: $number,
            name: $name,
            tags: [$origin, $nature, $scope],
            doc: $doc,
            value: $value,
        }),*]
    };
}

const FIELDS: &[Field] = fields! {
    0 "Name" PRODUCT OUTPUT SERVICE "Product name" |_| Value::Text("Portcullis".to_owned());
    1 "Version" PRODUCT OUTPUT SERVICE "Product version" |_| Value::Text(env!("CARGO_PKG_VERSION").to_owned());
    3 "Nbthread" CONFIG GAUGE SERVICE "Number of started threads (global.nbthread)" |f| Value::U32(f.workers.into());
    4 "Nbproc" CONFIG GAUGE SERVICE "Number of started worker processes (historical, always 1)" |_| Value::U32(1);
    5 "Process_num" KEY GAUGE PROCESS "Relative worker process number (1)" |_| Value::U32(1);
    6 "Pid" STATUS GAUGE PROCESS "This worker process identifier for the system" |f| Value::U32(f.pid.into());
    7 "Uptime" METRIC DURATION PROCESS "How long ago this worker process was started (days+hours+minutes+seconds)" |f| Value::Text(days(f.uptime));
    8 "Uptime_sec" METRIC DURATION PROCESS "How long ago this worker process was started (seconds)" |f| Value::Seconds(f.uptime);
    13 "Ulimit-n" CONFIG LIMIT PROCESS "Hard limit on the number of per-process file descriptors" |f| Value::U32(f.descriptors);
    15 "Maxconn" CONFIG LIMIT PROCESS "Hard limit on the number of per-process connections (configured or imposed by Ulimit-n)" |f| Value::U32(f.maxconn.into());
    16 "Hard_maxconn" CONFIG LIMIT PROCESS "Hard limit on the number of per-process connections (imposed by Memmax_MB or Ulimit-n)" |f| Value::U32(f.maxconn.into());
    17 "CurrConns" METRIC GAUGE PROCESS "Current number of connections on this worker process" |f| Value::U32(f.connections.into());
    18 "CumConns" METRIC COUNTER PROCESS "Total number of connections on this worker process since started" |f| Value::U32(f.total);
    19 "CumReq" METRIC COUNTER PROCESS "Total number of requests on this worker process since started" |f| Value::U32(f.total);
    23 "Maxpipes" CONFIG LIMIT PROCESS "Hard limit on the number of pipes for splicing, 0=unlimited" |f| Value::U32(f.most_pipes.into());
    24 "PipesUsed" METRIC GAUGE PROCESS "Current number of pipes in use in this worker process" |f| Value::U32(f.pipes.into());
    27 "ConnRateLimit" CONFIG LIMIT PROCESS "Hard limit for ConnRate (global.maxconnrate)" |f| Value::U32(f.rate_limit.into());
    50 "node" CONFIG OUTPUT SERVICE "Node name (global.node)" |f| Value::Text(f.node.clone());
    52 "Stopping" METRIC GAUGE PROCESS "1 if the worker process is currently stopping, otherwise zero" |f| Value::U32(f.stopping.into());
    53 "Jobs" METRIC GAUGE PROCESS "Current number of active jobs on the current worker process (frontend connections, master connections, listeners)" |f| Value::U32(u64::from(f.connections) + f.listeners as u64);
    55 "Listeners" METRIC GAUGE PROCESS "Current number of active listeners on the current worker process" |f| Value::U32(f.listeners as u64);
    58 "DroppedLogs" METRIC GAUGE PROCESS "Total number of dropped logs for current worker process since started" |f| Value::U32(f.dropped_logs);
    61 "TotalBytesOut" METRIC GAUGE PROCESS "Total number of bytes emitted by current worker process since started" |f| Value::U64(f.bytes_out);
    66 "Build info" PRODUCT OUTPUT SERVICE "Build info" |_| Value::Text(env!("CARGO_PKG_VERSION").to_owned());
    70 "Start_time_sec" METRIC DURATION PROCESS "Start time in seconds" |f| Value::Seconds(f.started);
};

/// The whole answer.
pub fn show(facts: &Facts, form: Form) -> String {
    let mut text = String::new();
    for (index, field) in FIELDS.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = match form.shape {
            Shape::Plain => write!(text, "{}: {}", field.name, field.text(facts, form)),
            Shape::Typed => write!(
                text,
                "{}.{}.1:{}:{}:{}",
                field.number,
                field.name,
                field
                    .tags
                    .map(|(letter, _)| letter)
                    .iter()
                    .collect::<String>(),
                field.kind(facts),
                field.text(facts, form)
            ),
            Shape::Json => {
                text.push(if index == 0 { '[' } else { ',' });
                text.push_str(&field.json(facts, form));
                continue;
            }
        };
        if form.described {
            let _ = write!(text, ":\"{}\"", field.doc);
        }
        text.push('\n');
    }
    if form.shape == Shape::Json {
        text.push_str("]\n");
    }
    text
}

impl Field {
    fn kind(&self, facts: &Facts) -> &'static str {
        match (self.value)(facts) {
            Value::Text(_) => "str",
            Value::U32(_) | Value::Seconds(_) => "u32",
            Value::U64(_) => "u64",
        }
    }

    fn text(&self, facts: &Facts, form: Form) -> String {
        match (self.value)(facts) {
            Value::Text(text) => text,
            // HAProxy's counters of 32 bits begin again at 0.
            Value::U32(number) => (number as u32).to_string(),
            Value::U64(number) => number.to_string(),
            Value::Seconds(time) if form.float => format!("{:.6}", time.as_secs_f64()),
            Value::Seconds(time) => time.as_secs().to_string(),
        }
    }

    fn json(&self, facts: &Facts, form: Form) -> String {
        let [origin, nature, scope] = self.tags.map(|(_, word)| word);
        let text = self.text(facts, form);
        let value = match (self.value)(facts) {
            Value::Text(_) => serde_json::Value::String(text).to_string(),
            _ => text,
        };
        format!(
            "{{\"field\":{{\"pos\":{},\"name\":\"{}\"}},\"processNum\":1,\"tags\":{{\"origin\":\"{origin}\",\
             \"nature\":\"{nature}\",\"scope\":\"{scope}\"}},\"value\":{{\"type\":\"{}\",\"value\":{value}}}}}",
            self.number,
            self.name,
            self.kind(facts),
        )
    }
}

fn days(time: Duration) -> String {
    let seconds = time.as_secs();
    format!(
        "{}d {}h{:02}m{:02}s",
        seconds / 86_400,
        seconds / 3_600 % 24,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            workers: 2,
            pid: 77,
            uptime: Duration::from_millis(90_061_500),
            started: Duration::from_millis(1_700_000_000_250),
            total: (1 << 32) + 5,
            bytes_out: (1 << 32) + 5,
            node: "a \"host\"".to_owned(),
            ..Facts::default()
        }
    }

    fn shown(words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        show(&facts(), Form::of(&words))
    }

    #[test]
    fn each_form_is_haproxys() {
        for (words, expected) in [
            (&[][..], "\nNbthread: 2\n"),
            (&[], "\nUptime: 1d 1h01m01s\nUptime_sec: 90061\n"),
            (&["float"], "\nUptime_sec: 90061.500000\n"),
            (&["typed"], "\n6.Pid.1:SGP:u32:77\n"),
            (&["typed"], "\n70.Start_time_sec.1:MDP:u32:1700000000\n"),
            (&["typed"], "0.Name.1:POS:str:Portcullis\n"),
            (&["typed"], "\n61.TotalBytesOut.1:MGP:u64:4294967301\n"),
            (&["typed"], "\n18.CumConns.1:MCP:u32:5\n"),
            (
                &["typed", "desc"],
                "Name.1:POS:str:Portcullis:\"Product name\"\n",
            ),
            (&["desc"], "Name: Portcullis:\"Product name\"\n"),
            (
                &["json"],
                ",{\"field\":{\"pos\":6,\"name\":\"Pid\"},\"processNum\":1,\"tags\":{\"origin\":\"Status\",\
                 \"nature\":\"Gauge\",\"scope\":\"Process\"},\"value\":{\"type\":\"u32\",\"value\":77}}",
            ),
        ] {
            let text = shown(words);
            assert!(text.contains(expected), "{words:?}: {text}");
        }
    }

    #[test]
    fn the_json_is_json_whatever_the_host_is_called() {
        let value: serde_json::Value = serde_json::from_str(&shown(&["json"])).unwrap();
        let fields = value.as_array().unwrap();
        assert_eq!(fields.len(), FIELDS.len());
        let node = fields.iter().find(|field| field["field"]["name"] == "node");
        assert_eq!(node.unwrap()["value"]["value"], "a \"host\"");
    }

    #[test]
    fn fields_are_in_haproxys_order_and_each_has_its_number() {
        assert!(FIELDS.is_sorted_by(|a, b| a.number < b.number));
    }
}
