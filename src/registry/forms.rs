//! The forms that the database has had, and how it is brought from one to the next.

use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A form: its number, its name, and what makes it of the one before.
pub(super) type Form = (i64, &'static str, &'static str);

/// All forms, the first one first. One that was released never changes.
pub(super) const FORMS: [Form; 3] = [
    (1, "registry", include_str!("migrations/0001_registry.sql")),
    (2, "messages", include_str!("migrations/0002_messages.sql")),
    (3, "afresh", include_str!("migrations/0003_afresh.sql")),
];

/// What brings a database of any of these forms to the last of them.
pub(super) fn bring_to(forms: &[Form]) -> Migrator {
    let migrations = forms.iter().map(|&(version, name, sql)| {
        let sql = sqlx::SqlStr::from_static(sql);
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    use super::super::Lock;
    use super::super::database::{Database, FILE};
    use super::*;

    #[tokio::test]
    async fn a_database_of_any_earlier_form_is_brought_to_the_present_one_with_what_is_in_it() {
        let organisation = "INSERT INTO organisation VALUES (3, randomblob(16), 1, 1, 'acme')";
        let board = "INSERT INTO board VALUES (4, randomblob(16), 1, 1, 3, 'b', '', 'soc', 0, '[]')";
        let device = "INSERT INTO device (id, created_at, updated_at, organisation, board, device_id, soc, mcu_id, metadata, \
                      state, state_updated_at) VALUES (randomblob(16), 1, 1, 3, 4, 7, 'soc', '00', '{}', '{}', 1)";
        for earlier in 1..FORMS.len() {
            let directory = tempfile::tempdir().unwrap();
            let options = SqliteConnectOptions::new().filename(directory.path().join(FILE)).create_if_missing(true);
            let former = SqlitePoolOptions::new().connect_with(options).await.unwrap();
            bring_to(&FORMS[..earlier]).run(&former).await.unwrap();
            for made in [organisation, board, device] {
                sqlx::query(made).execute(&former).await.unwrap();
            }
            former.close().await;
            let database = Database::open(Lock::take(directory.path()).unwrap()).await.unwrap();
            let query = sqlx::query_as("SELECT device_id, key_learned, afresh FROM device");
            let devices: Vec<(i64, bool, bool)> = query.fetch_all(&mut database.loader().await.unwrap()).await.unwrap();
            assert_eq!(devices, [(7, false, false)], "{earlier}");
        }
    }
}
