//! One SQL for SQLite and PostgreSQL.
//!
//! A statement is written once, with `$1` placeholders and in what both databases understand, and carries only
//! whole numbers, text and bytes. [`Tx`] is a transaction and [`Lent`] a connection of either; both take the same
//! [`Query`] and give the same [`Row`]. Chosen over the driver's own `Any`, which knows a database by its URL only: a
//! password would travel in one, and what makes SQLite durable could not be said.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{Decode, Postgres, Row as _, SqlSafeStr, SqlStr, Transaction, Type};

use super::sqlite::{Cell, Connections, Held};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// A value that a statement carries.
#[derive(Debug)]
pub(crate) enum Value {
    Number(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! values {
    ($($from:ty => |$value:ident| $make:expr;)*) => { $(
        impl From<$from> for Value {
            fn from($value: $from) -> Value {
                $make
            }
        }
    )* };
}

values! {
    i64 => |v| Value::Number(Some(v));
    Option<i64> => |v| Value::Number(v);
    &str => |v| Value::Text(Some(v.to_owned()));
    String => |v| Value::Text(Some(v));
    &String => |v| Value::Text(Some(v.clone()));
    Option<&str> => |v| Value::Text(v.map(str::to_owned));
    Option<String> => |v| Value::Text(v);
    &[u8] => |v| Value::Bytes(Some(v.to_vec()));
    Vec<u8> => |v| Value::Bytes(Some(v));
    &Vec<u8> => |v| Value::Bytes(Some(v.clone()));
    Option<&[u8]> => |v| Value::Bytes(v.map(<[u8]>::to_vec));
    Option<Vec<u8>> => |v| Value::Bytes(v);
    &Option<Vec<u8>> => |v| Value::Bytes(v.clone());
}

/// A statement with its values, for either database.
#[must_use]
pub(crate) struct Query {
    sql: SqlStr,
    values: Vec<Value>,
}

/// A statement. Text that is put together at run time must come from constants only.
pub(crate) fn query(sql: impl SqlSafeStr) -> Query {
    Query { sql: sql.into_sql_str(), values: Vec::new() }
}

/// Rows changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done(u64);

impl Done {
    pub(crate) fn rows_affected(self) -> u64 {
        self.0
    }
}

/// A row of either.
pub(crate) enum Row {
    Sqlite(Vec<Cell>),
    Postgres(PgRow),
}

/// What a column is read as.
pub(crate) trait Column: for<'r> Decode<'r, Postgres> + Type<Postgres> {
    /// None where SQLite holds something else.
    fn of(cell: &Cell) -> Option<Self>;
}

impl Column for i64 {
    fn of(cell: &Cell) -> Option<i64> {
        if let Cell::Integer(number) = cell { Some(*number) } else { None }
    }
}

impl Column for bool {
    fn of(cell: &Cell) -> Option<bool> {
        if let Cell::Integer(number @ 0..=1) = cell { Some(*number == 1) } else { None }
    }
}

impl Column for String {
    fn of(cell: &Cell) -> Option<String> {
        if let Cell::Text(text) = cell { Some(text.clone()) } else { None }
    }
}

impl Column for Vec<u8> {
    fn of(cell: &Cell) -> Option<Vec<u8>> {
        if let Cell::Blob(bytes) = cell { Some(bytes.clone()) } else { None }
    }
}

impl<T: Column> Column for Option<T>
where
    Option<T>: for<'r> Decode<'r, Postgres> + Type<Postgres>,
{
    fn of(cell: &Cell) -> Option<Option<T>> {
        if matches!(cell, Cell::Null) { Some(None) } else { T::of(cell).map(Some) }
    }
}

impl Row {
    pub(crate) fn try_get<T: Column>(&self, index: usize) -> Result<T, sqlx::Error> {
        match self {
            Row::Sqlite(cells) => {
                let cell = cells.get(index);
                let cell = cell.ok_or(sqlx::Error::ColumnIndexOutOfBounds { index, len: cells.len() })?;
                T::of(cell).ok_or_else(|| sqlx::Error::ColumnDecode {
                    index: index.to_string(),
                    source: format!("expected {}, found {}", std::any::type_name::<T>(), cell.data_type())
                        .into(),
                })
            }
            Row::Postgres(row) => row.try_get(index),
        }
    }
}

/// A connection of either, borrowed for one statement.
pub(crate) enum Connection<'c> {
    Sqlite(&'c mut Held),
    Postgres(&'c mut PgConnection),
    Over,
}

fn over() -> sqlx::Error {
    sqlx::Error::InvalidArgument("the transaction is over".into())
}

/// What a statement can be given to.
pub(crate) trait Run: Send {
    fn connection(&mut self) -> Connection<'_>;
}

/// A transaction of either. Dropped without commit, it never was.
pub(crate) enum Tx {
    Sqlite(Held),
    Postgres(Transaction<'static, Postgres>),
    /// Given away: nothing can be said in it.
    Over,
}

impl Tx {
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Tx::Sqlite(tx) => tx.commit().await,
            Tx::Postgres(tx) => patient(tx.commit()).await,
            Tx::Over => Err(over()),
        }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Tx::Postgres(_) => Dialect::Postgres,
            Tx::Sqlite(_) | Tx::Over => Dialect::Sqlite,
        }
    }
}

impl Run for Tx {
    fn connection(&mut self) -> Connection<'_> {
        match self {
            Tx::Sqlite(tx) => Connection::Sqlite(tx),
            Tx::Postgres(tx) => Connection::Postgres(&mut *tx),
            Tx::Over => Connection::Over,
        }
    }
}

/// A pooled connection of either.
pub(crate) enum Lent {
    Sqlite(Held),
    Postgres(PoolConnection<Postgres>),
}

impl Run for Lent {
    fn connection(&mut self) -> Connection<'_> {
        match self {
            Lent::Sqlite(connection) => Connection::Sqlite(connection),
            Lent::Postgres(connection) => Connection::Postgres(&mut *connection),
        }
    }
}

/// The connections to one database.
#[derive(Clone)]
pub(crate) enum Pool {
    /// One connection writes, others read beside it.
    Sqlite {
        writer: Connections,
        reader: Connections,
    },
    Postgres(PgPool),
}

impl Pool {
    /// Begins to write. On SQLite this waits for the right to, so that nothing later can fail for want of it.
    pub(crate) async fn write(&self) -> Result<Tx, sqlx::Error> {
        Ok(match self {
            Pool::Sqlite { writer, .. } => {
                let mut held = writer.take().await?;
                held.begin_to_write().await?;
                Tx::Sqlite(held)
            }
            Pool::Postgres(pool) => Tx::Postgres(patient(pool.begin()).await?),
        })
    }

    /// One unchanging view, for several statements that must agree.
    pub(crate) async fn view(&self) -> Result<Tx, sqlx::Error> {
        Ok(match self {
            Pool::Sqlite { reader, .. } => {
                let mut held = reader.take().await?;
                held.begin_to_read()?;
                Tx::Sqlite(held)
            }
            Pool::Postgres(pool) => Tx::Postgres(
                patient(pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")).await?,
            ),
        })
    }

    /// A connection for single reads.
    pub(crate) async fn read(&self) -> Result<Lent, sqlx::Error> {
        Ok(match self {
            Pool::Sqlite { reader, .. } => Lent::Sqlite(reader.take().await?),
            Pool::Postgres(pool) => Lent::Postgres(pool.acquire().await?),
        })
    }

    pub(crate) async fn close(&self) {
        match self {
            Pool::Sqlite { writer, reader } => {
                reader.close().await;
                writer.close().await;
            }
            Pool::Postgres(pool) => pool.close().await,
        }
    }
}

/// What is waited for an answer of PostgreSQL: longer than the server lets a statement run, so that this ends only
/// what a server or a network that went silent would leave hanging.
const PATIENCE: Duration = Duration::from_secs(20);

async fn patient<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let silent =
        |_| sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "PostgreSQL is silent"));
    tokio::time::timeout(PATIENCE, answer).await.map_err(silent)?
}

type Filled = sqlx::query::Query<'static, Postgres, <Postgres as sqlx::Database>::Arguments>;

impl Query {
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Query {
        self.values.push(value.into());
        self
    }

    fn fill(self) -> Filled {
        self.values.into_iter().fold(sqlx::query::<Postgres>(self.sql), |query, value| match value {
            Value::Number(number) => query.bind(number),
            Value::Text(text) => query.bind(text),
            Value::Bytes(bytes) => query.bind(bytes),
        })
    }

    pub(crate) async fn execute(self, on: &mut impl Run) -> Result<Done, sqlx::Error> {
        Ok(Done(match on.connection() {
            Connection::Sqlite(held) => held.execute(self.sql.as_str(), &self.values)?,
            Connection::Postgres(c) => patient(self.fill().execute(c)).await?.rows_affected(),
            Connection::Over => return Err(over()),
        }))
    }

    pub(crate) async fn fetch_optional(self, on: &mut impl Run) -> Result<Option<Row>, sqlx::Error> {
        Ok(match on.connection() {
            Connection::Sqlite(held) => held.first(self.sql.as_str(), &self.values)?.map(Row::Sqlite),
            Connection::Postgres(c) => patient(self.fill().fetch_optional(c)).await?.map(Row::Postgres),
            Connection::Over => return Err(over()),
        })
    }

    pub(crate) async fn fetch_one(self, on: &mut impl Run) -> Result<Row, sqlx::Error> {
        self.fetch_optional(on).await?.ok_or(sqlx::Error::RowNotFound)
    }

    pub(crate) async fn fetch_all(self, on: &mut impl Run) -> Result<Vec<Row>, sqlx::Error> {
        Ok(match on.connection() {
            Connection::Sqlite(held) => {
                held.all(self.sql, self.values).await?.into_iter().map(Row::Sqlite).collect()
            }
            Connection::Postgres(c) => {
                patient(self.fill().fetch_all(c)).await?.into_iter().map(Row::Postgres).collect()
            }
            Connection::Over => return Err(over()),
        })
    }
}
