//! Checks the nesting of lists of numbers: one flat list, or nested exactly as a tensor's shape.

/// Follows the nesting of a tensor's data token by token.
pub struct Nesting<'a> {
    shape: &'a [u32],
    elements: usize,
    form: Form,
    /// Number of items so far in each open list, outermost first.
    open: Vec<usize>,
    /// Number of numbers so far.
    numbers: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Not known yet.
    Unknown,
    /// One list of all numbers.
    Flat,
    /// A list for each dimension.
    Nested,
}

impl<'a> Nesting<'a> {
    /// Starts with data of this shape.
    pub fn new(shape: &'a [u32]) -> Self {
        Self {
            shape,
            elements: shape.iter().map(|size| *size as usize).product(),
            form: Form::Unknown,
            open: Vec::new(),
            numbers: 0,
        }
    }

    /// A list begins.
    pub fn open(&mut self) -> Result<(), String> {
        if self.open.len() == 1 && self.form == Form::Unknown {
            self.form = Form::Nested;
        }
        if !self.open.is_empty() {
            if self.form == Form::Flat {
                self.count();
                return Err(self.here("found a list among numbers"));
            }
            self.count();
            if self.open.len() >= self.shape.len() {
                return Err(self.here(&format!(
                    "found lists in {} lists, but the shape {:?} has {} dimensions",
                    self.open.len(),
                    self.shape,
                    self.shape.len()
                )));
            }
            self.check_room()?;
        }
        self.open.push(0);
        Ok(())
    }

    /// A list ends.
    pub fn close(&mut self) -> Result<(), String> {
        let depth = self.open.len();
        let Some(items) = self.open.pop() else {
            return Ok(());
        };
        if self.form != Form::Nested {
            return Ok(());
        }
        match self.shape.get(depth - 1) {
            Some(size) if *size as usize == items => Ok(()),
            size => Err(self.here(&format!(
                "this list has {items} items, the shape {:?} needs {}",
                self.shape,
                size.copied().unwrap_or_default()
            ))),
        }
    }

    /// A number, or a string for a non-finite one.
    pub fn item(&mut self) -> Result<(), String> {
        if self.open.len() == 1 && self.form == Form::Unknown {
            self.form = Form::Flat;
        }
        self.count();
        self.numbers += 1;
        if self.form == Form::Nested && self.open.len() != self.shape.len() {
            return Err(self.here(&format!(
                "found a number in {} lists, but the shape {:?} has {} dimensions: send one flat list, or lists nested as the shape says",
                self.open.len(),
                self.shape,
                self.shape.len()
            )));
        }
        self.check_room()
    }

    /// The end of the data.
    pub fn end(&self) -> Result<(), String> {
        if self.numbers == self.elements {
            return Ok(());
        }
        Err(format!(
            "there are {} numbers, its shape {:?} needs {}",
            self.numbers, self.shape, self.elements
        ))
    }

    /// An error with the position of the last item.
    pub fn here(&self, what: &str) -> String {
        let mut place = "data".to_owned();
        for items in &self.open {
            place += &format!("[{}]", items.saturating_sub(1));
        }
        format!("{place}: {what}")
    }

    fn count(&mut self) {
        if let Some(items) = self.open.last_mut() {
            *items += 1;
        }
    }

    /// Refuses more numbers than the shape has, before storing them.
    fn check_room(&self) -> Result<(), String> {
        let depth = self.open.len();
        let size = match self.form {
            Form::Nested => self.shape.get(depth.saturating_sub(1)),
            _ => None,
        };
        let items = self.open.last().copied().unwrap_or_default();
        match size {
            Some(size) if items > *size as usize => Err(self.here(&format!(
                "there are more items than the {size} of the shape {:?}",
                self.shape
            ))),
            _ if self.numbers > self.elements => Err(format!(
                "there are more numbers than the {} of its shape {:?}",
                self.elements, self.shape
            )),
            _ => Ok(()),
        }
    }
}
