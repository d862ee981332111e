//! The tables, made step by step, the same steps on SQLite and PostgreSQL.
//!
//! A step is written once, in SQLite's words; for PostgreSQL the names of types are exchanged. What only one of the
//! two can say comes after it, from a file of its own.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, SqlSafeStr as _};

use super::sql::Dialect;

struct Step {
    version: i64,
    name: &'static str,
    /// For both, in SQLite's words.
    sql: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

const STEPS: &[Step] = &[
    Step {
        version: 1,
        name: "first form",
        sql: include_str!("../../migrations/0001_first_form.sql"),
        sqlite: include_str!("../../migrations/0001_first_form.sqlite.sql"),
        postgres: include_str!("../../migrations/0001_first_form.postgres.sql"),
    },
    Step {
        version: 2,
        name: "authorities",
        sql: include_str!("../../migrations/0002_authorities.sql"),
        sqlite: "",
        postgres: "",
    },
    Step {
        version: 3,
        name: "attested",
        sql: include_str!("../../migrations/0003_attested.sql"),
        sqlite: "",
        postgres: "",
    },
    Step {
        version: 4,
        name: "svids by identity",
        sql: include_str!("../../migrations/0004_svids_by_identity.sql"),
        sqlite: "",
        postgres: "",
    },
    Step {
        version: 5,
        name: "operators",
        sql: include_str!("../../migrations/0005_operators.sql"),
        sqlite: "",
        postgres: "",
    },
    Step {
        version: 6,
        name: "ends",
        sql: include_str!("../../migrations/0006_ends.sql"),
        sqlite: "",
        postgres: "",
    },
    Step {
        version: 7,
        name: "delegations",
        sql: include_str!("../../migrations/0007_delegations.sql"),
        sqlite: "",
        postgres: "",
    },
    Step {
        version: 8,
        name: "spread",
        sql: include_str!("../../migrations/0008_spread.sql"),
        sqlite: "",
        postgres: "",
    },
    Step {
        version: 9,
        name: "deferred",
        sql: include_str!("../../migrations/0009_deferred.sql"),
        sqlite: "",
        postgres: "",
    },
    Step {
        version: 10,
        name: "sealed keys",
        sql: include_str!("../../migrations/0010_sealed_keys.sql"),
        sqlite: "",
        postgres: "",
    },
];

/// What PostgreSQL says instead. Text is compared byte by byte, as SQLite does.
const WORDS: [(&str, &str); 5] = [
    (" BLOB", " BYTEA"),
    (" INTEGER", " BIGINT"),
    (" TEXT", " TEXT COLLATE \"C\""),
    (" STRICT, WITHOUT ROWID", ""),
    (" STRICT;", ";"),
];

impl Step {
    fn render(&self, dialect: Dialect) -> String {
        let (sql, own) = match dialect {
            Dialect::Sqlite => (Cow::Borrowed(self.sql), self.sqlite),
            Dialect::Postgres => {
                let translate =
                    |sql: Cow<'static, str>, (from, to): (&str, &str)| Cow::Owned(sql.replace(from, to));
                (WORDS.into_iter().fold(Cow::Borrowed(self.sql), translate), self.postgres)
            }
        };
        format!("{sql}\n{own}")
    }
}

/// The number of the last step.
pub(super) fn newest() -> i64 {
    STEPS.last().map_or(0, |step| step.version)
}

/// All steps, for one of the two.
pub(super) fn migrator(dialect: Dialect) -> Migrator {
    let steps = STEPS.iter().map(|step| {
        let sql = AssertSqlSafe(step.render(dialect)).into_sql_str();
        Migration::new(step.version, step.name.into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(steps.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_sqlite_is_left_for_postgres() {
        for step in STEPS {
            let sql = step.render(Dialect::Postgres);
            for line in sql.lines().filter(|line| !line.starts_with("--")) {
                for word in ["BLOB", "STRICT", "ROWID", "INTEGER"] {
                    assert!(!line.contains(word), "step {}: {line}", step.version);
                }
            }
        }
    }

    #[test]
    fn steps_are_numbered_without_gaps() {
        let versions: Vec<i64> = STEPS.iter().map(|step| step.version).collect();
        assert_eq!(versions, (1..=i64::try_from(STEPS.len()).unwrap()).collect::<Vec<_>>());
    }
}
