//! Fills a table in its init, and does what the file `mode` tells it to beside; answers with what the table holds of the
//! number that it is sent.

use std::collections::HashMap;

use samovar_sdk::{Error, Graph, Model, Request, Response, config, files, log, model};

struct Table {
    squares: HashMap<u64, u64>,
    served: u64,
}

#[model]
impl Model for Table {
    fn load() -> Result<Self, Error> {
        let mode = files::read_to_string("/mode").unwrap_or_default();
        match mode.trim() {
            "clock" => log::info(format!("{:?}", std::time::SystemTime::now())),
            "environment" => log::info(format!("{:?}", std::env::var("SAMOVAR_MODEL"))),
            "config" => log::info(format!("{:?}", config::get("SECRET"))),
            "graph" => drop(Graph::load("default")),
            "print" => println!("printed"),
            "file" => std::mem::forget(std::fs::File::open("/mode").map_err(Error::internal)?),
            "random" => log::info(random()),
            "loop" => loop {
                std::hint::black_box(0);
            },
            "error" => return Err(Error::internal("on purpose")),
            _ => {}
        }
        log::info("the table is filled");
        Ok(Self {
            squares: (0..10_000)
                .map(|number| (number, number * number))
                .collect(),
            served: 0,
        })
    }

    fn predict(&mut self, mut request: Request) -> Result<Response, Error> {
        self.served += 1;
        let text = request.text()?;
        let number: u64 = text.trim().parse().map_err(Error::bad_request)?;
        let square = self.squares.get(&number).copied().unwrap_or_default();
        // The same file again, through the same library that `load` read it with.
        let mode = std::fs::read_to_string("/mode").unwrap_or_default();
        let answer = format!("{square} {} {}", self.served, mode.trim());
        Ok(Response::new("text/plain", answer))
    }
}

/// A number that nobody guesses, by the same import that a random generator is seeded with.
fn random() -> u64 {
    samovar_sdk::__private::wasip2::random::random::get_random_u64()
}
