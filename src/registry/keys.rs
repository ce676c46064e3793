//! API keys: their records, and digests in place of the keys.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::bounds::{self, NAME};
use super::database::{from_time, to_32, to_number, to_time, unreadable};
use super::error::OpenError;
use super::organisations::named;
use super::rules::rule;
use super::{Page, Registry, RegistryError, StoredKey};
use crate::records::{AccessLevel, ApiKey, NewApiKey};
use crate::status::Time;

/// API keys that are stored at once: the gateway holds about 200 bytes of each.
const MAX_KEYS: i64 = 100_000;

/// Id, made at, name, id and number of the organisation, access, worthless from, digest.
type Row = (Uuid, i64, String, Option<Uuid>, Option<i64>, String, Option<i64>, Vec<u8>);

impl Registry {
    /// Stores an API key by the SHA-256 of its whole text.
    ///
    /// # Errors
    /// There is no such organisation, its name breaks a rule, or there are as many keys as there may be.
    pub async fn create_api_key(&self, new: &NewApiKey, digest: [u8; 32]) -> Result<StoredKey, RegistryError> {
        bounds::check("name", &new.name, NAME)?;
        let mut change = self.database.begin().await?;
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM api_key").fetch_one(&mut *change).await?;
        if count >= MAX_KEYS {
            return Err(rule(format!(
                "there are {count} API keys, as many as there may be; delete some that nobody uses"
            )));
        }
        let organisation = match new.organisation_id {
            Some(id) => Some(named(&mut change, id).await?),
            None => None,
        };
        let (id, now) = self.stamp();
        let insert = "INSERT INTO api_key (id, created_at, name, organisation, access, expires_at, digest) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7)";
        sqlx::query(insert)
            .bind(id)
            .bind(from_time(now.0))
            .bind(&new.name)
            .bind(organisation)
            .bind(access_text(new.access))
            .bind(new.expires_at.map(|at| from_time(at.0)))
            .bind(&digest[..])
            .execute(&mut *change)
            .await?;
        change.commit(|| ()).await?;
        let NewApiKey { name, organisation_id, access, expires_at } = new.clone();
        let key = ApiKey { id, created_at: now, name, organisation_id, access, expires_at };
        Ok(StoredKey { key, digest, organisation: number(organisation)? })
    }

    /// A part of the list of API keys, in the order they were made.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn api_keys(&self, page: Page) -> Result<Vec<StoredKey>, RegistryError> {
        let direction = page.direction();
        let query = format!("{STORED} ORDER BY api_key.n {direction} LIMIT $1 OFFSET $2");
        let mut reader = self.database.reader().await?;
        let query = sqlx::query_as(AssertSqlSafe(query)).bind(page.limit()).bind(page.offset());
        let rows = self.database.read(query.fetch_all(&mut reader)).await?;
        rows.into_iter().map(|row| Ok(stored_key(row)?)).collect()
    }

    /// All API keys that have not expired, for the start.
    ///
    /// # Errors
    /// What stands in the database cannot be right, or it does not answer: one line that says what to do.
    pub async fn api_keys_in_force(&self) -> Result<Vec<StoredKey>, OpenError> {
        let keys = async {
            let query = format!("{STORED} WHERE expires_at IS NULL OR expires_at > $1 ORDER BY api_key.n");
            let query = sqlx::query_as(AssertSqlSafe(query)).bind(from_time(self.clock.now()));
            let rows = query.fetch_all(&mut self.database.loader().await?).await?;
            rows.into_iter().map(stored_key).collect::<Result<Vec<_>, sqlx::Error>>()
        };
        keys.await.map_err(|error| self.database.explain(error))
    }

    /// Deletes an API key.
    ///
    /// # Errors
    /// There is none with this record id.
    pub async fn delete_api_key(&self, id: Uuid) -> Result<(), RegistryError> {
        let mut change = self.database.begin().await?;
        let deleted = sqlx::query("DELETE FROM api_key WHERE id = $1").bind(id).execute(&mut *change).await?;
        if deleted.rows_affected() == 0 {
            return Err(RegistryError::NotFound { kind: "API key", id: id.to_string() });
        }
        change.commit(|| ()).await
    }
}

/// What [`stored_key`] reads.
const STORED: &str = "SELECT api_key.id, api_key.created_at, api_key.name, organisation.id, organisation.n, access, \
                      expires_at, digest FROM api_key LEFT JOIN organisation ON organisation.n = api_key.organisation";

fn stored_key(row: Row) -> Result<StoredKey, sqlx::Error> {
    let (id, created_at, name, organisation_id, organisation, access, expires_at, digest) = row;
    let key = ApiKey {
        id,
        created_at: Time(to_time(created_at)),
        name,
        organisation_id,
        access: to_access(&access)?,
        expires_at: expires_at.map(|at| Time(to_time(at))),
    };
    Ok(StoredKey { key, digest: to_32(&digest)?, organisation: number(organisation)? })
}

/// The number of an organisation; 0 for all of them.
fn number(organisation: Option<i64>) -> Result<u32, sqlx::Error> {
    organisation.map_or(Ok(0), to_number)
}

const fn access_text(access: AccessLevel) -> &'static str {
    match access {
        AccessLevel::Read => "read",
        AccessLevel::Write => "write",
    }
}

fn to_access(stored: &str) -> Result<AccessLevel, sqlx::Error> {
    match stored {
        "read" => Ok(AccessLevel::Read),
        "write" => Ok(AccessLevel::Write),
        _ => Err(unreadable("an access level that is none")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ALL, Site, live};
    use super::*;
    use crate::clock::Timestamp;

    fn new(name: &str, organisation_id: Option<Uuid>) -> NewApiKey {
        NewApiKey { name: name.to_owned(), organisation_id, access: AccessLevel::Write, expires_at: None }
    }

    #[tokio::test]
    async fn keys_are_found_again_after_a_restart_with_the_number_of_their_organisation() {
        let site = Site::new().await;
        site.organisation("first").await;
        let acme = site.organisation("acme").await;
        let of_all = NewApiKey { access: AccessLevel::Read, ..new("all", None) };
        let of_acme = NewApiKey { expires_at: Some(Time(Timestamp(1_795_402_800_123))), ..new("acme", Some(acme.id)) };
        let mut made = Vec::new();
        for (new, digest) in [(of_all, [1; 32]), (of_acme, [2; 32])] {
            made.push(site.registry.create_api_key(&new, digest).await.unwrap());
        }
        let site = site.restart(live(1, Default::default()), 0).await;
        let found = site.registry.api_keys(ALL).await.unwrap();
        assert_eq!(found, made);
        assert_eq!(found.iter().map(|key| key.organisation).collect::<Vec<_>>(), [0, 2]);
        let part = Page { limit: 1, offset: 1, descending: true };
        assert_eq!(site.registry.api_keys(part).await.unwrap(), made[..1]);
    }

    #[tokio::test]
    async fn those_in_force_have_not_expired() {
        let site = Site::new().await;
        for (expires_at, digest) in [(None, [1; 32]), (Some(1), [2; 32]), (Some(u64::MAX >> 2), [3; 32])] {
            let new = NewApiKey { expires_at: expires_at.map(|at| Time(Timestamp(at))), ..new("key", None) };
            site.registry.create_api_key(&new, digest).await.unwrap();
        }
        let found = site.registry.api_keys_in_force().await.unwrap();
        assert_eq!(found.iter().map(|key| key.digest[0]).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(site.registry.api_keys(ALL).await.unwrap().len(), 3, "the list has all");
    }

    #[tokio::test]
    async fn so_many_keys_there_are_and_no_more() {
        let site = Site::new().await;
        let made = site.registry.create_api_key(&new("key", None), [1; 32]).await.unwrap();
        let mut change = site.registry.database.begin().await.unwrap();
        let others = "WITH RECURSIVE number (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM number WHERE n < $1) \
                      INSERT INTO api_key (id, created_at, name, access, digest) \
                      SELECT CAST(n AS BLOB), 0, 'key', 'read', CAST(n AS BLOB) FROM number";
        sqlx::query(others).bind(MAX_KEYS - 1).execute(&mut *change).await.unwrap();
        change.commit(|| ()).await.unwrap();
        let refused = site.registry.create_api_key(&new("key", None), [2; 32]).await.unwrap_err();
        let said = "there are 100000 API keys, as many as there may be; delete some that nobody uses";
        assert_eq!(refused, RegistryError::Rule(said.to_owned()));
        site.registry.delete_api_key(made.key.id).await.unwrap();
        site.registry.create_api_key(&new("key", None), [2; 32]).await.unwrap();
    }

    #[tokio::test]
    async fn at_the_start_a_key_that_cannot_be_right_is_damage() {
        let site = Site::new().await;
        site.registry.create_api_key(&new("key", None), [1; 32]).await.unwrap();
        assert_eq!(site.registry.api_keys_in_force().await.unwrap().len(), 1);
        let mut change = site.registry.database.begin().await.unwrap();
        sqlx::query("UPDATE api_key SET digest = x'00'").execute(&mut *change).await.unwrap();
        change.commit(|| ()).await.unwrap();
        let error = site.registry.api_keys_in_force().await.unwrap_err().to_string();
        assert!(error.contains("registry.sqlite3 is damaged"), "{error}");
    }

    #[tokio::test]
    async fn one_that_is_deleted_is_gone() {
        let site = Site::new().await;
        let made = site.registry.create_api_key(&new("key", None), [1; 32]).await.unwrap();
        site.registry.delete_api_key(made.key.id).await.unwrap();
        assert_eq!(site.registry.api_keys(ALL).await.unwrap(), []);
        let refused = site.registry.delete_api_key(made.key.id).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("there is no API key {}", made.key.id));
    }

    #[tokio::test]
    async fn a_key_of_an_organisation_that_is_not_there_breaks_a_rule() {
        let site = Site::new().await;
        for bad in [new("key", Some(Uuid::nil())), new("", None)] {
            let refused = site.registry.create_api_key(&bad, [1; 32]).await;
            assert!(matches!(refused, Err(RegistryError::Rule(_))), "{refused:?}");
        }
        assert_eq!(site.registry.api_keys(ALL).await.unwrap(), []);
    }
}
