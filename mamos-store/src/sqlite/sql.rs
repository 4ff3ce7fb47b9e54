//! Statements over many rows at once.
//!
//! Each statement costs sqlx two hops between threads, some microseconds; a row in a `VALUES` list
//! costs a fraction of one. So batches travel as lists, padded to a few fixed lengths, and each length
//! is one prepared statement.

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use sqlx::encode::Encode;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::types::Type;
use sqlx::{Arguments, AssertSqlSafe};

use super::errors::Fault;

/// The lengths of lists. Padding costs some 30 ns a column; a statement that was never prepared, more.
const LENGTHS: [usize; 5] = [1, 4, 16, 64, 256];

/// The values of a statement, in order.
#[derive(Default)]
pub(super) struct Values {
    arguments: SqliteArguments,
    fault: Option<String>,
}

impl Values {
    /// Adds the next value.
    pub(super) fn add<'q, T: Encode<'q, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> &mut Self {
        if let Err(error) = self.arguments.add(value) {
            self.fault.get_or_insert_with(|| error.to_string());
        }
        self
    }

    pub(super) fn finish(self) -> Result<SqliteArguments, Fault> {
        match self.fault {
            None => Ok(self.arguments),
            Some(message) => Err(Fault::Corrupt(format!("a value cannot be bound: {message}"))),
        }
    }
}

/// A statement with a list of rows in its middle: `before`, rows of `columns` values each, `after`.
///
/// Rows that only pad are all `NULL`, so `before` and `after` must make `NULL` keys match nothing.
pub(super) struct Listed {
    before: &'static str,
    columns: usize,
    after: &'static str,
    texts: [OnceLock<Arc<str>>; LENGTHS.len()],
}

impl Listed {
    pub(super) const fn new(before: &'static str, columns: usize, after: &'static str) -> Self {
        Self { before, columns, after, texts: [const { OnceLock::new() }; LENGTHS.len()] }
    }

    fn text(&self, rows: usize) -> (usize, Arc<str>) {
        let index = LENGTHS.iter().position(|length| rows <= *length).unwrap_or(LENGTHS.len() - 1);
        let text = self.texts[index].get_or_init(|| {
            let row = match self.columns {
                // A list for `IN (…)`, not for `VALUES`.
                1 => "?".to_owned(),
                columns => format!("(?{})", ",?".repeat(columns - 1)),
            };
            let mut text = String::from(self.before);
            for n in 0..LENGTHS[index] {
                let comma = if n == 0 { "" } else { "," };
                // Writing to a string cannot fail.
                let _ = write!(text, "{comma}{row}");
            }
            text.push_str(self.after);
            text.into()
        });
        (LENGTHS[index], Arc::clone(text))
    }

    fn query<T>(
        &self,
        fixed: &impl Fn(&mut Values),
        rows: &[T],
        bind: &impl Fn(&mut Values, &T),
    ) -> Result<(Arc<str>, SqliteArguments), Fault> {
        let (length, text) = self.text(rows.len());
        let mut values = Values::default();
        fixed(&mut values);
        values.arguments.reserve(length * self.columns, 0);
        for row in rows {
            bind(&mut values, row);
        }
        for _ in 0..(length - rows.len()) * self.columns {
            values.add(None::<i64>);
        }
        Ok((text, values.finish()?))
    }

    /// Runs the statement for all rows, and gives how many rows of the database it changed.
    pub(super) async fn execute<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        bind: impl Fn(&mut Values, &T),
    ) -> Result<u64, Fault> {
        self.execute_with(connection, |_| (), rows, bind).await
    }

    /// The same, with values that stand before the list.
    pub(super) async fn execute_with<T>(
        &self,
        connection: &mut SqliteConnection,
        fixed: impl Fn(&mut Values),
        rows: &[T],
        bind: impl Fn(&mut Values, &T),
    ) -> Result<u64, Fault> {
        let mut changed = 0;
        for chunk in rows.chunks(LENGTHS[LENGTHS.len() - 1]) {
            let (text, arguments) = self.query(&fixed, chunk, &bind)?;
            let done = sqlx::query_with(AssertSqlSafe(text), arguments).execute(&mut *connection).await?;
            changed += done.rows_affected();
        }
        Ok(changed)
    }

    /// Runs the query for all rows, and gives what it found.
    pub(super) async fn fetch<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        bind: impl Fn(&mut Values, &T),
    ) -> Result<Vec<SqliteRow>, Fault> {
        let mut found = Vec::with_capacity(rows.len());
        for chunk in rows.chunks(LENGTHS[LENGTHS.len() - 1]) {
            let (text, arguments) = self.query(&|_: &mut Values| (), chunk, &bind)?;
            found.extend(sqlx::query_with(AssertSqlSafe(text), arguments).fetch_all(&mut *connection).await?);
        }
        Ok(found)
    }

    /// The statement for that many rows, for tests of its plan.
    #[cfg(test)]
    pub(super) fn statement(&self, rows: usize) -> String {
        self.text(rows).1.to_string()
    }
}
