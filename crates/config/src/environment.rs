//! The environment variables that a configuration sees.
//!
//! Decides:  the values that `$V` has while a file is read, and what `setenv`, `presetenv`,
//!           `unsetenv` and `resetenv` do to them. The process's own variables stay as they are.
//! Source:   HAProxy's manual, chapter 2.3; src/haproxy.c, load_cfg(); src/cfgparse-global.c,
//!           cfg_parse_global_env_opts(), 3.5-dev5.
//! Not here: how a file writes a variable (lexer.rs).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::features::Features;

/// Variables by name, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The log formats that HAProxy offers as variables; the manual, chapter 8.2.
const LOG_FORMATS: [(&str, &str); 5] = [
    (
        "HAPROXY_TCP_LOG_FMT",
        "%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq",
    ),
    (
        "HAPROXY_TCP_CLF_LOG_FMT",
        "%{+Q}o %{-Q}ci - - [%T] \"TCP \" 000 %B \"\" \"\" %cp %ms %ft %b %s %Th %Tw %Tc %Tt %U \
         %ts-- %ac %fc %bc %sc %rc %sq %bq \"\" \"\" ",
    ),
    (
        "HAPROXY_HTTP_LOG_FMT",
        "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc \
         %sq/%bq %hr %hs %{+Q}r",
    ),
    (
        "HAPROXY_HTTP_CLF_LOG_FMT",
        "%{+Q}o %{-Q}ci - - [%trg] %r %ST %B \"\" \"\" %cp %ms %ft %b %s %TR %Tw %Tc %Tr %Ta %tsc \
         %ac %fc %bc %sc %rc %sq %bq %CC %CS %hrl %hsl",
    ),
    (
        "HAPROXY_HTTPS_LOG_FMT",
        "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc \
         %sq/%bq %hr %hs %{+Q}r %[fc_err]/%[ssl_fc_err,hex]/%[ssl_c_err]/%[ssl_c_ca_err]/\
         %[ssl_fc_is_resumed] %[ssl_fc_sni]/%sslv/%sslc",
    ),
];

impl Environment {
    /// A variable's value.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        self.variables.get(name.as_ref()).map(Vec::as_slice)
    }

    /// Sets a variable, whether it was there or not.
    pub fn set(&mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.variables.insert(name.into(), value.into());
    }

    /// Sets a variable unless it is there.
    pub fn preset(&mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.variables
            .entry(name.into())
            .or_insert_with(|| value.into());
    }

    /// Takes a variable away.
    pub fn unset(&mut self, name: impl AsRef<[u8]>) {
        self.variables.remove(name.as_ref());
    }

    /// Takes every variable away but these.
    pub fn reset(&mut self, keep: &[&[u8]]) {
        self.variables.retain(|name, _| keep.contains(&&name[..]));
    }

    /// The names that are set.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.variables.keys().map(Vec::as_slice)
    }

    /// Sets what HAProxy itself sets before it reads: the branch, the version, the log formats.
    /// `HAPROXY_LOCALPEER` is the caller's to set (it is the host's name).
    pub fn announce(&mut self, features: &Features) {
        self.set("HAPROXY_BRANCH", features.version.branch());
        self.preset("HAPROXY_STARTUP_VERSION", features.version.to_string());
        for (name, format) in LOG_FORMATS {
            self.set(name, format);
        }
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(pairs: I) -> Environment {
        Environment {
            variables: pairs
                .into_iter()
                .map(|(name, value)| (name.into_vec(), value.into_vec()))
                .collect(),
        }
    }
}
