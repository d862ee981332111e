//! One SQL for SQLite and PostgreSQL.
//!
//! A statement is written once, with `$1` placeholders and in what both databases understand, and carries only
//! whole numbers, text and bytes. [`Tx`] is a transaction and [`Lent`] a connection of either; both take the same
//! [`Query`] and give the same [`Row`]. Chosen over the driver's own `Any`, which knows a database by its URL only: a
//! password would travel in one, and what makes SQLite durable could not be said.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{
    ColumnIndex, Database, Decode, Encode, Postgres, Row as _, SqlSafeStr, SqlStr, Sqlite, Transaction, Type,
};

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
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub(crate) fn try_get<T, I>(&self, index: I) -> Result<T, sqlx::Error>
    where
        T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>,
        I: ColumnIndex<SqliteRow> + ColumnIndex<PgRow>,
    {
        match self {
            Row::Sqlite(row) => row.try_get(index),
            Row::Postgres(row) => row.try_get(index),
        }
    }
}

/// A connection of either, borrowed for one statement.
pub(crate) enum Connection<'c> {
    Sqlite(&'c mut SqliteConnection),
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
    Sqlite(Transaction<'static, Sqlite>),
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
            Tx::Sqlite(tx) => Connection::Sqlite(&mut *tx),
            Tx::Postgres(tx) => Connection::Postgres(&mut *tx),
            Tx::Over => Connection::Over,
        }
    }
}

/// A pooled connection of either.
pub(crate) enum Lent {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

impl Run for Lent {
    fn connection(&mut self) -> Connection<'_> {
        match self {
            Lent::Sqlite(connection) => Connection::Sqlite(&mut *connection),
            Lent::Postgres(connection) => Connection::Postgres(&mut *connection),
        }
    }
}

/// The connections to one database.
#[derive(Clone)]
pub(crate) enum Pool {
    /// One connection writes, others read beside it.
    Sqlite {
        writer: SqlitePool,
        reader: SqlitePool,
    },
    Postgres(PgPool),
}

impl Pool {
    /// Begins to write. On SQLite this waits for the right to, so that nothing later can fail for want of it.
    pub(crate) async fn write(&self) -> Result<Tx, sqlx::Error> {
        Ok(match self {
            Pool::Sqlite { writer, .. } => Tx::Sqlite(writer.begin_with("BEGIN IMMEDIATE").await?),
            Pool::Postgres(pool) => Tx::Postgres(patient(pool.begin()).await?),
        })
    }

    /// One unchanging view, for several statements that must agree.
    pub(crate) async fn view(&self) -> Result<Tx, sqlx::Error> {
        Ok(match self {
            Pool::Sqlite { reader, .. } => Tx::Sqlite(reader.begin().await?),
            Pool::Postgres(pool) => Tx::Postgres(
                patient(pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")).await?,
            ),
        })
    }

    /// A connection for single reads.
    pub(crate) async fn read(&self) -> Result<Lent, sqlx::Error> {
        Ok(match self {
            Pool::Sqlite { reader, .. } => Lent::Sqlite(reader.acquire().await?),
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

type Filled<DB> = sqlx::query::Query<'static, DB, <DB as Database>::Arguments>;

impl Query {
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Query {
        self.values.push(value.into());
        self
    }

    fn fill<DB>(self) -> Filled<DB>
    where
        DB: Database,
        <DB as Database>::Arguments: sqlx::IntoArguments<DB>,
        Option<i64>: for<'q> Encode<'q, DB> + Type<DB>,
        Option<String>: for<'q> Encode<'q, DB> + Type<DB>,
        Option<Vec<u8>>: for<'q> Encode<'q, DB> + Type<DB>,
    {
        self.values.into_iter().fold(sqlx::query::<DB>(self.sql), |query, value| match value {
            Value::Number(number) => query.bind(number),
            Value::Text(text) => query.bind(text),
            Value::Bytes(bytes) => query.bind(bytes),
        })
    }

    pub(crate) async fn execute(self, on: &mut impl Run) -> Result<Done, sqlx::Error> {
        Ok(Done(match on.connection() {
            Connection::Sqlite(c) => self.fill::<Sqlite>().execute(c).await?.rows_affected(),
            Connection::Postgres(c) => patient(self.fill::<Postgres>().execute(c)).await?.rows_affected(),
            Connection::Over => return Err(over()),
        }))
    }

    pub(crate) async fn fetch_optional(self, on: &mut impl Run) -> Result<Option<Row>, sqlx::Error> {
        Ok(match on.connection() {
            Connection::Sqlite(c) => self.fill::<Sqlite>().fetch_optional(c).await?.map(Row::Sqlite),
            Connection::Postgres(c) => {
                patient(self.fill::<Postgres>().fetch_optional(c)).await?.map(Row::Postgres)
            }
            Connection::Over => return Err(over()),
        })
    }

    pub(crate) async fn fetch_one(self, on: &mut impl Run) -> Result<Row, sqlx::Error> {
        self.fetch_optional(on).await?.ok_or(sqlx::Error::RowNotFound)
    }

    pub(crate) async fn fetch_all(self, on: &mut impl Run) -> Result<Vec<Row>, sqlx::Error> {
        Ok(match on.connection() {
            Connection::Sqlite(c) => {
                self.fill::<Sqlite>().fetch_all(c).await?.into_iter().map(Row::Sqlite).collect()
            }
            Connection::Postgres(c) => {
                patient(self.fill::<Postgres>().fetch_all(c)).await?.into_iter().map(Row::Postgres).collect()
            }
            Connection::Over => return Err(over()),
        })
    }
}
