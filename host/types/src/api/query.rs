//! Query parameters, as names and values.

use std::fmt::Display;

use serde::Serialize;

/// Names and values; a list repeats its name.
#[derive(Debug, Default)]
pub(super) struct QueryPairs(Vec<(&'static str, String)>);

impl QueryPairs {
    /// Adds a text or a number, if there is one.
    pub fn value(mut self, name: &'static str, value: Option<impl Display>) -> Self {
        self.0.extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// Adds each text of a list.
    pub fn values(mut self, name: &'static str, values: &[String]) -> Self {
        self.0
            .extend(values.iter().map(|value| (name, value.clone())));
        self
    }

    /// Adds values of an enum without fields, as the API spells them.
    pub fn words<'a, T: Serialize + 'a>(
        mut self,
        name: &'static str,
        values: impl IntoIterator<Item = &'a T>,
    ) -> Self {
        let words = values.into_iter().map(|value| (name, word(value)));
        self.0.extend(words);
        self
    }

    /// All names and values.
    pub fn into_vec(self) -> Vec<(&'static str, String)> {
        self.0
    }
}

fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        // Only values without fields are given.
        _ => String::new(),
    }
}
