//! The rows of the table, and which of their floors hold.

/// What was measured, and whether it is enough.
pub struct Row {
    pub measure: String,
    pub samovar: String,
    /// What it is compared with.
    pub beside: String,
    pub result: String,
    pub floor: String,
    pub held: Option<bool>,
}

impl Row {
    /// A row that is told, and nothing wanted of it.
    pub fn fact(measure: impl Into<String>, samovar: impl Into<String>) -> Self {
        Self {
            measure: measure.into(),
            samovar: samovar.into(),
            beside: String::new(),
            result: String::new(),
            floor: String::new(),
            held: None,
        }
    }

    /// The line of the table.
    pub fn line(&self) -> String {
        let held = match self.held {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        format!(
            "| {} | {} | {} | {} | {} | {held} |",
            self.measure, self.samovar, self.beside, self.result, self.floor
        )
    }
}

/// Prints all rows.
pub fn print(rows: &[Row]) {
    println!("| measure | samovar | compared with | result | threshold | met |");
    println!("| --- | ---: | ---: | --- | --- | --- |");
    for row in rows {
        println!("{}", row.line());
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }
}
