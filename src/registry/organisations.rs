//! Organisations.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::bounds::{self, NAME};
use super::database::{Connection, from_time, taken, to_number, to_time};
use super::{Conflict, OrganisationOrder, Page, Registry, RegistryError};
use crate::records::{NewOrganisation, Organisation};
use crate::status::Time;
use crate::waiters::Subject;

/// Id, made at, changed at, name.
type Row = (Uuid, i64, i64, String);

impl Registry {
    /// Makes an organisation.
    ///
    /// # Errors
    /// Its name is taken, or has no allowed length.
    pub async fn create_organisation(&self, new: &NewOrganisation) -> Result<Organisation, RegistryError> {
        bounds::check("name", &new.name, NAME)?;
        let mut change = self.database.begin().await?;
        let (id, now) = self.stamp();
        sqlx::query("INSERT INTO organisation (id, created_at, updated_at, name) VALUES ($1, $2, $2, $3)")
            .bind(id)
            .bind(from_time(now.0))
            .bind(&new.name)
            .execute(&mut *change)
            .await
            .map_err(|error| {
                let value = new.name.clone();
                taken(error, |_| Conflict::Taken { what: "organisation name", value })
            })?;
        change.commit(|| ()).await?;
        Ok(Organisation { id, created_at: now, updated_at: now, name: new.name.clone() })
    }

    /// Organisations, only the one `only` if it is given.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn organisations(
        &self,
        only: Option<Uuid>,
        order: OrganisationOrder,
        page: Page,
    ) -> Result<Vec<Organisation>, RegistryError> {
        let column = match order {
            OrganisationOrder::CreatedAt => "created_at",
            OrganisationOrder::Name => "name",
            OrganisationOrder::UpdatedAt => "updated_at",
        };
        let direction = page.direction();
        let query = format!(
            "SELECT id, created_at, updated_at, name FROM organisation WHERE id = $1 OR $2 \
             ORDER BY {column} {direction}, n {direction} LIMIT $3 OFFSET $4"
        );
        let mut reader = self.database.reader().await?;
        let query = sqlx::query_as(AssertSqlSafe(query))
            .bind(only.unwrap_or_default())
            .bind(only.is_none())
            .bind(page.limit())
            .bind(page.offset())
            .fetch_all(&mut reader);
        let rows = self.database.read(query).await?;
        Ok(rows.into_iter().map(organisation).collect())
    }

    /// The organisation with a record id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn organisation(&self, id: Uuid) -> Result<Option<Organisation>, RegistryError> {
        let mut reader = self.database.reader().await?;
        let query = sqlx::query_as("SELECT id, created_at, updated_at, name FROM organisation WHERE id = $1")
            .bind(id)
            .fetch_optional(&mut reader);
        Ok(self.database.read(query).await?.map(organisation))
    }

    /// The organisation with exactly this name.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn organisation_named(&self, name: &str) -> Result<Option<Organisation>, RegistryError> {
        let mut reader = self.database.reader().await?;
        let query = sqlx::query_as("SELECT id, created_at, updated_at, name FROM organisation WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut reader);
        Ok(self.database.read(query).await?.map(organisation))
    }

    /// The number that [`crate::table::Registration::organisation`] has for an organisation.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn organisation_number(&self, id: Uuid) -> Result<Option<u32>, RegistryError> {
        let mut reader = self.database.reader().await?;
        let query = sqlx::query_scalar("SELECT n FROM organisation WHERE id = $1").bind(id).fetch_optional(&mut reader);
        Ok(self.database.read(query).await?.map(to_number).transpose()?)
    }

    /// Deletes an organisation, which ends the waits for packets of its devices.
    ///
    /// # Errors
    /// There is none with this record id, or it has boards, networks, devices or API keys.
    pub async fn delete_organisation(&self, id: Uuid) -> Result<(), RegistryError> {
        let mut change = self.database.begin().await?;
        let counts = sqlx::query_as(
            "SELECT n, (SELECT COUNT(*) FROM board WHERE organisation = organisation.n), \
             (SELECT COUNT(*) FROM network WHERE organisation = organisation.n), \
             (SELECT COUNT(*) FROM device WHERE organisation = organisation.n), \
             (SELECT COUNT(*) FROM api_key WHERE organisation = organisation.n) FROM organisation WHERE id = $1",
        );
        let counts: Option<(i64, i64, i64, i64, i64)> = counts.bind(id).fetch_optional(&mut *change).await?;
        let Some((n, boards, networks, devices, keys)) = counts else {
            return Err(RegistryError::NotFound { kind: "organisation", id: id.to_string() });
        };
        let dependents = [(boards, "board"), (networks, "network"), (devices, "device"), (keys, "API key")];
        Conflict::unless_free("organisation", id, &dependents)?;
        sqlx::query("DELETE FROM organisation WHERE n = $1").bind(n).execute(&mut *change).await?;
        let (number, waiters) = (to_number(n)?, Arc::clone(&self.live.waiters));
        change.commit(move || waiters.dismiss(Subject::Organisation(number))).await
    }
}

/// The number of the organisation that a request names.
///
/// # Errors
/// There is none, which breaks a rule.
pub(super) async fn named(connection: &mut Connection, id: Uuid) -> Result<i64, RegistryError> {
    let found = sqlx::query_scalar("SELECT n FROM organisation WHERE id = $1").bind(id).fetch_optional(connection);
    found.await?.ok_or_else(|| RegistryError::Rule(format!("organisationId: there is no organisation {id}")))
}

fn organisation((id, created_at, updated_at, name): Row) -> Organisation {
    Organisation { id, created_at: Time(to_time(created_at)), updated_at: Time(to_time(updated_at)), name }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ALL, BARE, Site, live};
    use super::*;
    use crate::id::DeviceId;
    use crate::records::{AccessLevel, NewApiKey};

    fn new(name: &str) -> NewOrganisation {
        NewOrganisation { name: name.to_owned() }
    }

    async fn names(site: &Site, order: OrganisationOrder, page: Page) -> Vec<String> {
        let organisations = site.registry.organisations(None, order, page).await.unwrap();
        organisations.into_iter().map(|organisation| organisation.name).collect()
    }

    #[tokio::test]
    async fn what_was_made_is_found_in_every_way_and_after_a_restart() {
        let site = Site::new().await;
        let (acme, other) = (site.organisation("acme").await, site.organisation("other").await);
        let site = site.restart(live(1, Default::default()), 0).await;
        let registry = &site.registry;
        assert_eq!(registry.organisation(acme.id).await.unwrap(), Some(acme.clone()));
        assert_eq!(registry.organisation_named("acme").await.unwrap(), Some(acme.clone()));
        assert_eq!(registry.organisation_number(other.id).await.unwrap(), Some(2));
        let order = OrganisationOrder::default();
        assert_eq!(registry.organisations(Some(other.id), order, ALL).await.unwrap(), [other]);
        assert_eq!(registry.organisations(Some(Uuid::nil()), order, ALL).await.unwrap(), []);
        assert_eq!(registry.organisation_named("Acme").await.unwrap(), None);
        assert_eq!(registry.organisation(Uuid::nil()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn pages_in_every_order_neither_repeat_nor_lose() {
        let site = Site::new().await;
        for name in ["c", "a", "b"] {
            site.organisation(name).await;
        }
        let expected = [
            (OrganisationOrder::Name, ["a", "b", "c"]),
            (OrganisationOrder::CreatedAt, ["c", "a", "b"]),
            (OrganisationOrder::UpdatedAt, ["c", "a", "b"]),
        ];
        for (order, expected) in expected {
            let mut found = Vec::new();
            for offset in 0..4 {
                found.extend(names(&site, order, Page { limit: 1, offset, descending: false }).await);
            }
            assert_eq!(found, expected, "{order:?}");
            let mut backwards = names(&site, order, Page { descending: true, ..ALL }).await;
            backwards.reverse();
            assert_eq!(backwards, expected, "{order:?}");
        }
    }

    #[tokio::test]
    async fn of_many_that_make_one_name_at_once_exactly_one_succeeds() {
        let site = Site::new().await;
        let making = (0..20).map(|_| {
            let registry = site.registry.clone();
            tokio::spawn(async move { registry.create_organisation(&new("acme")).await })
        });
        let mut made = 0;
        for making in making.collect::<Vec<_>>() {
            match making.await.unwrap() {
                Ok(_) => made += 1,
                Err(error) => assert_eq!(error.to_string(), "organisation name \"acme\" is taken; choose another"),
            }
        }
        assert_eq!((made, names(&site, OrganisationOrder::Name, ALL).await.len()), (1, 1));
    }

    #[tokio::test]
    async fn ids_rise_also_when_the_clock_is_set_back_over_a_restart() {
        let site = Site::new().await;
        let first = site.organisation("first").await;
        let site = site.restart(live(1, Default::default()), -86_400).await;
        let second = site.organisation("second").await;
        assert!(second.id > first.id && second.created_at < first.created_at);
    }

    #[tokio::test]
    async fn one_that_something_depends_on_is_not_deleted_and_what_depends_is_counted() {
        let site = Site::new().await;
        let acme = site.organisation("acme").await;
        let board = site.board(&acme, "board", false).await;
        site.network(&acme, "network", 1).await;
        for id in [1, 2] {
            site.device(&board, DeviceId(id), BARE).await;
        }
        let key = NewApiKey {
            name: "key".to_owned(),
            organisation_id: Some(acme.id),
            access: AccessLevel::Read,
            expires_at: None,
        };
        site.registry.create_api_key(&key, [1; 32]).await.unwrap();
        let refused = site.registry.delete_organisation(acme.id).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("organisation {} has 1 board, 1 network, 2 devices, 1 API key; delete them first", acme.id)
        );
    }

    #[tokio::test]
    async fn one_that_is_deleted_is_gone_and_its_number_is_not_given_again() {
        let site = Site::new().await;
        let acme = site.organisation("acme").await;
        site.registry.delete_organisation(acme.id).await.unwrap();
        let refused = site.registry.delete_organisation(acme.id).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("there is no organisation {}", acme.id));
        let again = site.organisation("acme").await;
        assert_eq!(site.registry.organisation_number(again.id).await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn a_name_without_an_allowed_length_breaks_a_rule() {
        let site = Site::new().await;
        for bad in [String::new(), "a".repeat(256), "a\0".to_owned()] {
            let refused = site.registry.create_organisation(&new(&bad)).await;
            assert!(matches!(refused, Err(RegistryError::Rule(_))), "{bad:?}");
        }
        let odd = "\u{1f680}' OR 1=1; --";
        assert_eq!(site.organisation(odd).await.name, odd);
    }
}
