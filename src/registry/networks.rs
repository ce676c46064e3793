//! Networks.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::bounds::{self, DESCRIPTION, NAME};
use super::database::{Unique, from_time, taken, to_32, to_number, to_time, unreadable};
use super::organisations::named;
use super::{Conflict, KindOrder, Page, Registry, RegistryError, pages};
use crate::auth::keys::{NetworkInfo, RootKey};
use crate::id::KeyId;
use crate::records::{Key32, Network, NetworkId, NewNetwork};
use crate::status::Time;

/// Id, made at, changed at, name, description, key, owner, whether public, network id.
type Row = (Uuid, i64, i64, String, String, Vec<u8>, Uuid, bool, i64);

/// What a [`Row`] has.
const SELECT: &str = "SELECT network.id, network.created_at, network.updated_at, network.name, description, key, \
                      organisation.id, public, network_id FROM network \
                      JOIN organisation ON organisation.n = network.organisation";

impl Registry {
    /// Makes a network, in force for the next datagram.
    ///
    /// # Errors
    /// Its name or network id is taken, there is no such organisation, or a text breaks a rule.
    pub async fn create_network(&self, new: &NewNetwork) -> Result<Network, RegistryError> {
        bounds::check("name", &new.name, NAME)?;
        bounds::check("description", &new.description, DESCRIPTION)?;
        let network_id = new.network_id.0;
        if self.live.configured.networks.contains(&network_id) {
            return Err(Conflict::Configured(network_id.get()).into());
        }
        let mut change = self.database.begin().await?;
        let organisation = named(&mut change, new.organisation_id).await?;
        let (id, now) = self.stamp();
        let insert = "INSERT INTO network (id, created_at, updated_at, organisation, name, description, network_id, public, \
                      key) VALUES ($1, $2, $2, $3, $4, $5, $6, $7, $8)";
        sqlx::query(insert)
            .bind(id)
            .bind(from_time(now.0))
            .bind(organisation)
            .bind(&new.name)
            .bind(&new.description)
            .bind(i64::from(network_id.get()))
            .bind(new.public)
            .bind(&new.key.bytes()[..])
            .execute(&mut *change)
            .await
            .map_err(|error| taken(error, |unique| conflict(new, unique)))?;
        let (keys, root) = (self.live.keys.clone(), RootKey::new(*new.key.bytes()));
        let info = NetworkInfo::new(to_number(organisation)?, new.public);
        change.commit(move || keys.set_network_of(network_id, root, info)).await?;
        let NewNetwork { name, description, key, organisation_id, public, network_id } = new.clone();
        Ok(Network {
            id,
            created_at: now,
            updated_at: now,
            name,
            description,
            key,
            organisation_id,
            public,
            network_id,
        })
    }

    /// Networks of an organisation, with `include_public` also public ones of others.
    ///
    /// # Errors
    /// The database does not answer, or the networks are too long for one page.
    pub async fn networks(
        &self,
        organisation: Uuid,
        include_public: bool,
        order: KindOrder,
        page: Page,
    ) -> Result<Vec<Network>, RegistryError> {
        let (column, direction) = (order.column(), page.direction());
        let query = format!(
            "{SELECT} WHERE organisation.id = $1 OR (public AND $2) \
             ORDER BY network.{column} {direction}, network.n {direction} LIMIT $3 OFFSET $4"
        );
        let mut reader = self.database.reader().await?;
        let query = sqlx::query_as(AssertSqlSafe(query))
            .bind(organisation)
            .bind(include_public)
            .bind(page.limit())
            .bind(page.offset())
            .fetch(&mut reader);
        pages::collect(&self.database, &mut { pages::PAGE }, query, |row: Row| {
            let bytes = row.3.len() + row.4.len();
            Ok((network(row)?, bytes))
        })
        .await
    }

    /// The network with a record id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn network(&self, id: Uuid) -> Result<Option<Network>, RegistryError> {
        let query = format!("{SELECT} WHERE network.id = $1");
        let mut reader = self.database.reader().await?;
        let query = sqlx::query_as(AssertSqlSafe(query)).bind(id).fetch_optional(&mut reader);
        Ok(self.database.read(query).await?.map(network).transpose()?)
    }

    /// Deletes a network: the next datagram under its key is of an unknown network, unless the configuration names it too.
    ///
    /// # Errors
    /// There is none with this record id.
    pub async fn delete_network(&self, id: Uuid) -> Result<(), RegistryError> {
        let mut change = self.database.begin().await?;
        let deleted = "DELETE FROM network WHERE id = $1 RETURNING network_id";
        let deleted: Option<i64> = sqlx::query_scalar(deleted).bind(id).fetch_optional(&mut *change).await?;
        let Some(network_id) = deleted else {
            return Err(RegistryError::NotFound { kind: "network", id: id.to_string() });
        };
        let network_id = key_id(network_id)?;
        let live = self.live.clone();
        change
            .commit(move || {
                if !live.configured.networks.contains(&network_id) {
                    live.keys.remove_network(network_id);
                }
            })
            .await
    }
}

fn conflict(new: &NewNetwork, unique: Unique) -> Conflict {
    match unique {
        Unique::NetworkId => Conflict::Taken { what: "networkId", value: new.network_id.0.get().to_string() },
        _ => Conflict::Taken { what: "network name", value: new.name.clone() },
    }
}

/// A key id that was stored.
pub(super) fn key_id(stored: i64) -> Result<KeyId, sqlx::Error> {
    u32::try_from(stored).ok().and_then(KeyId::new).ok_or_else(|| unreadable("a key id of more than 24 bits"))
}

fn network(row: Row) -> Result<Network, sqlx::Error> {
    let (id, created_at, updated_at, name, description, key, organisation_id, public, network_id) = row;
    Ok(Network {
        id,
        created_at: Time(to_time(created_at)),
        updated_at: Time(to_time(updated_at)),
        name,
        description,
        key: Key32::new(to_32(&key)?),
        organisation_id,
        public,
        network_id: NetworkId(key_id(network_id)?),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Configured;
    use super::super::testing::{ALL, Site, live, new_network, opens_network};
    use super::*;
    use crate::auth::Refusal;

    fn configured(network: u32) -> Configured {
        Configured { networks: [KeyId::new(network).unwrap()].into(), ..Configured::default() }
    }

    fn unknown(network: u32) -> Result<(), Refusal> {
        Err(Refusal::UnknownNetwork(KeyId::new(network).unwrap()))
    }

    #[tokio::test]
    async fn one_that_is_made_is_in_force_at_once_and_after_a_restart_until_it_is_deleted() {
        let site = Site::new().await;
        let acme = site.organisation("acme").await;
        assert_eq!(opens_network(&site.live, 7, 7), unknown(7));
        let made = site.network(&acme, "fleet", 7).await;
        assert_eq!(opens_network(&site.live, 7, 7), Ok(()));
        assert_eq!(opens_network(&site.live, 7, 8), Err(Refusal::BadTag));
        let site = site.restart(live(1, Default::default()), 0).await;
        assert_eq!(opens_network(&site.live, 7, 7), Ok(()));
        assert_eq!(site.registry.network(made.id).await.unwrap(), Some(made.clone()));
        site.registry.delete_network(made.id).await.unwrap();
        assert_eq!(opens_network(&site.live, 7, 7), unknown(7));
        assert_eq!(site.registry.network(made.id).await.unwrap(), None);
        let refused = site.registry.delete_network(made.id).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("there is no network {}", made.id));
    }

    #[tokio::test]
    async fn its_name_and_its_network_id_are_taken_whoever_owns_it_and_nothing_of_a_refused_one_is_in_force() {
        let site = Site::new().await;
        let (acme, other) = (site.organisation("acme").await, site.organisation("other").await);
        site.network(&acme, "fleet", 7).await;
        for (name, id, said) in [
            ("fleet", 8, "network name \"fleet\" is taken; choose another"),
            ("other", 7, "networkId \"7\" is taken; choose another"),
        ] {
            let new = NewNetwork { key: Key32::new([9; 32]), ..new_network(&other, name, id) };
            assert_eq!(site.registry.create_network(&new).await.unwrap_err().to_string(), said);
        }
        assert_eq!((opens_network(&site.live, 7, 7), opens_network(&site.live, 8, 9)), (Ok(()), unknown(8)));
    }

    #[tokio::test]
    async fn the_configuration_wins() {
        let site = Site::new().await;
        let acme = site.organisation("acme").await;
        let made = site.network(&acme, "fleet", 7).await;
        let live = live(1, configured(7));
        live.keys.set_network(KeyId::new(7).unwrap(), RootKey::new([70; 32]));
        let site = site.restart(live, 0).await;
        assert_eq!(opens_network(&site.live, 7, 70), Ok(()));
        let refused = site.registry.create_network(&new_network(&acme, "other", 7)).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "networkId 7 is that of a network in the configuration file; choose another, or take it out there"
        );
        site.registry.delete_network(made.id).await.unwrap();
        assert_eq!(opens_network(&site.live, 7, 70), Ok(()));
    }

    #[tokio::test]
    async fn an_organisation_sees_its_own_and_public_ones_if_it_asks_for_them() {
        let site = Site::new().await;
        let (acme, other) = (site.organisation("acme").await, site.organisation("other").await);
        site.network(&acme, "b", 1).await;
        site.network(&other, "private", 2).await;
        let public = NewNetwork { public: true, ..new_network(&other, "a", 3) };
        site.registry.create_network(&public).await.unwrap();
        for (include_public, expected) in [(false, &["b"][..]), (true, &["a", "b"])] {
            let networks = site.registry.networks(acme.id, include_public, KindOrder::Name, ALL).await.unwrap();
            let names: Vec<_> = networks.iter().map(|network| network.name.as_str()).collect();
            assert_eq!(names, expected);
        }
    }

    #[tokio::test]
    async fn no_key_is_printed_or_told_by_an_error() {
        let site = Site::new().await;
        let acme = site.organisation("acme").await;
        let made = site.network(&acme, "fleet", 171).await;
        let refused = site.registry.create_network(&new_network(&acme, "fleet", 171)).await.unwrap_err();
        let text = format!("{made:?} {refused:?} {:?}", site.registry);
        assert!(!text.contains("171, 171") && text.contains("***"), "{text}");
    }
}
