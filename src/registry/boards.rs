//! Boards.

use std::collections::HashSet;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::bounds::{self, DESCRIPTION, FIELDS, NAME, SOC};
use super::database::{from_json, from_time, taken, to_json, to_time};
use super::organisations::named;
use super::{Conflict, KindOrder, Page, Registry, RegistryError, pages};
use crate::records::{Board, MetadataField, NewBoard};
use crate::status::Time;

/// Id, made at, changed at, name, description, system on chip, owner, whether public, metadata fields.
type Row = (Uuid, i64, i64, String, String, String, Uuid, bool, String);

/// What a [`Row`] has.
const SELECT: &str = "SELECT board.id, board.created_at, board.updated_at, board.name, description, soc, organisation.id, \
                      public, metadata_fields FROM board JOIN organisation ON organisation.n = board.organisation";

impl Registry {
    /// Makes a board.
    ///
    /// # Errors
    /// Its organisation has one of its name, there is no such organisation, or a text or the metadata fields break a rule.
    pub async fn create_board(&self, new: &NewBoard) -> Result<Board, RegistryError> {
        check(new)?;
        let mut change = self.database.begin().await?;
        let organisation = named(&mut change, new.organisation_id).await?;
        let (id, now) = self.stamp();
        let insert = "INSERT INTO board (id, created_at, updated_at, organisation, name, description, soc, public, \
                      metadata_fields) VALUES ($1, $2, $2, $3, $4, $5, $6, $7, $8)";
        sqlx::query(insert)
            .bind(id)
            .bind(from_time(now.0))
            .bind(organisation)
            .bind(&new.name)
            .bind(&new.description)
            .bind(&new.soc)
            .bind(new.public)
            .bind(to_json(&new.metadata_fields)?)
            .execute(&mut *change)
            .await
            .map_err(|error| {
                let value = new.name.clone();
                taken(error, |_| Conflict::Taken { what: "name of a board of this organisation", value })
            })?;
        change.commit(|| ()).await?;
        let NewBoard { name, description, soc, organisation_id, public, metadata_fields } = new.clone();
        Ok(Board {
            id,
            created_at: now,
            updated_at: now,
            name,
            description,
            soc,
            organisation_id,
            public,
            metadata_fields,
        })
    }

    /// Boards of an organisation, with `include_public` also public ones of others.
    ///
    /// # Errors
    /// The database does not answer, or the boards are too long for one page.
    pub async fn boards(
        &self,
        organisation: Uuid,
        include_public: bool,
        order: KindOrder,
        page: Page,
    ) -> Result<Vec<Board>, RegistryError> {
        let (column, direction) = (order.column(), page.direction());
        let query = format!(
            "{SELECT} WHERE organisation.id = $1 OR (public AND $2) \
             ORDER BY board.{column} {direction}, board.n {direction} LIMIT $3 OFFSET $4"
        );
        let mut reader = self.database.reader().await?;
        let query = sqlx::query_as(AssertSqlSafe(query))
            .bind(organisation)
            .bind(include_public)
            .bind(page.limit())
            .bind(page.offset())
            .fetch(&mut reader);
        pages::collect(&self.database, &mut { pages::PAGE }, query, |row: Row| {
            let bytes = row.3.len() + row.4.len() + row.8.len();
            Ok((board(row)?, bytes))
        })
        .await
    }

    /// The board with a record id.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn board(&self, id: Uuid) -> Result<Option<Board>, RegistryError> {
        let query = format!("{SELECT} WHERE board.id = $1");
        let mut reader = self.database.reader().await?;
        let query = sqlx::query_as(AssertSqlSafe(query)).bind(id).fetch_optional(&mut reader);
        Ok(self.database.read(query).await?.map(board).transpose()?)
    }

    /// Deletes a board.
    ///
    /// # Errors
    /// There is none with this record id, or it has devices.
    pub async fn delete_board(&self, id: Uuid) -> Result<(), RegistryError> {
        let mut change = self.database.begin().await?;
        // Both counts are of an index alone.
        let counts = "SELECT n, (SELECT COUNT(*) FROM device d WHERE d.organisation = b.organisation AND d.board = b.n), \
                      (SELECT COUNT(*) FROM device d WHERE d.board = b.n) FROM board b WHERE id = $1";
        let counts: Option<(i64, i64, i64)> = sqlx::query_as(counts).bind(id).fetch_optional(&mut *change).await?;
        let Some((n, devices, all)) = counts else {
            return Err(RegistryError::NotFound { kind: "board", id: id.to_string() });
        };
        if devices < all {
            return Err(Conflict::UsedByOthers(id).into());
        }
        Conflict::unless_free("board", id, &[(devices, "device")])?;
        sqlx::query("DELETE FROM board WHERE n = $1").bind(n).execute(&mut *change).await?;
        change.commit(|| ()).await
    }
}

fn check(new: &NewBoard) -> Result<(), RegistryError> {
    bounds::check("name", &new.name, NAME)?;
    bounds::check("description", &new.description, DESCRIPTION)?;
    bounds::check("soc", &new.soc, SOC)?;
    let fields = &new.metadata_fields;
    if fields.len() > FIELDS {
        let problem = format!("metadataFields has {} entries; it may have up to {FIELDS}", fields.len());
        return Err(RegistryError::Rule(problem));
    }
    let mut names = HashSet::new();
    for MetadataField { name, .. } in fields {
        bounds::check("name of a metadata field", name, NAME)?;
        if !names.insert(name) {
            return Err(RegistryError::Rule(format!("metadataFields has {name:?} twice")));
        }
    }
    Ok(())
}

fn board(row: Row) -> Result<Board, sqlx::Error> {
    let (id, created_at, updated_at, name, description, soc, organisation_id, public, fields) = row;
    Ok(Board {
        id,
        created_at: Time(to_time(created_at)),
        updated_at: Time(to_time(updated_at)),
        name,
        description,
        soc,
        organisation_id,
        public,
        metadata_fields: from_json(&fields)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::database::from_device_id;
    use super::super::testing::{BARE, Site, live, new_board};
    use super::*;
    use crate::id::DeviceId;

    fn field(name: &str) -> MetadataField {
        MetadataField { name: name.to_owned(), required: true, unique: false }
    }

    #[tokio::test]
    async fn what_was_made_is_found_again_after_a_restart() {
        let site = Site::new().await;
        let acme = site.organisation("acme").await;
        let new = NewBoard { metadata_fields: vec![field("serial")], ..new_board(&acme, "board", true) };
        let made = site.registry.create_board(&new).await.unwrap();
        let site = site.restart(live(1, Default::default()), 0).await;
        assert_eq!(site.registry.board(made.id).await.unwrap(), Some(made.clone()));
        assert_eq!((made.metadata_fields, made.organisation_id), (new.metadata_fields, acme.id));
        assert_eq!(site.registry.board(Uuid::nil()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_organisation_sees_its_own_boards_and_public_ones_if_it_asks_for_them() {
        let site = Site::new().await;
        let (acme, other) = (site.organisation("acme").await, site.organisation("other").await);
        for (owner, name, public) in
            [(&other, "d", true), (&acme, "c", true), (&other, "x", false), (&acme, "b", false), (&acme, "a", true)]
        {
            site.board(owner, name, public).await;
        }
        assert_eq!(site.board_names(&acme, false, KindOrder::CreatedAt).await, ["c", "b", "a"]);
        assert_eq!(site.board_names(&acme, true, KindOrder::CreatedAt).await, ["d", "c", "b", "a"]);
        assert_eq!(site.board_names(&acme, true, KindOrder::Name).await, ["a", "b", "c", "d"]);
        // The private one first, and ties by creation.
        assert_eq!(site.board_names(&acme, true, KindOrder::Public).await, ["b", "d", "c", "a"]);
    }

    #[tokio::test]
    async fn a_name_is_taken_within_one_organisation_only() {
        let site = Site::new().await;
        let (acme, other) = (site.organisation("acme").await, site.organisation("other").await);
        site.board(&acme, "board", false).await;
        site.board(&other, "board", false).await;
        let refused = site.registry.create_board(&new_board(&acme, "board", true)).await.unwrap_err();
        assert_eq!(refused.to_string(), "name of a board of this organisation \"board\" is taken; choose another");
    }

    #[tokio::test]
    async fn what_breaks_a_rule_is_refused_and_said() {
        let site = Site::new().await;
        let acme = site.organisation("acme").await;
        let good = new_board(&acme, "board", false);
        let long = |len: usize| "a".repeat(len);
        let nobody = Uuid::nil();
        for (bad, said) in [
            (NewBoard { name: String::new(), ..good.clone() }, "name has 0 bytes"),
            (NewBoard { description: long(4097), ..good.clone() }, "description has 4097 bytes"),
            (NewBoard { soc: long(65), ..good.clone() }, "soc has 65 bytes"),
            (NewBoard { organisation_id: nobody, ..good.clone() }, "organisationId: there is no organisation 0000"),
            (
                NewBoard { metadata_fields: vec![field("a"), field("a")], ..good.clone() },
                "metadataFields has \"a\" twice",
            ),
            (NewBoard { metadata_fields: vec![field("")], ..good.clone() }, "name of a metadata field has 0 bytes"),
            (
                NewBoard { metadata_fields: (0..65).map(|n| field(&n.to_string())).collect(), ..good },
                "metadataFields has 65 entries; it may have up to 64",
            ),
        ] {
            match site.registry.create_board(&bad).await {
                Err(RegistryError::Rule(rule)) => assert!(rule.starts_with(said), "{rule}"),
                other => panic!("{other:?}: {said}"),
            }
        }
    }

    #[tokio::test]
    async fn one_with_devices_is_not_deleted_and_one_without_is() {
        let site = Site::new().await;
        let acme = site.organisation("acme").await;
        let (used, free) = (site.board(&acme, "used", false).await, site.board(&acme, "free", false).await);
        site.device(&used, DeviceId(1), BARE).await;
        let refused = site.registry.delete_board(used.id).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("board {} has 1 device; delete them first", used.id));
        let (other, public) = (site.organisation("other").await, site.board(&acme, "public", true).await);
        site.device(&public, DeviceId(2), BARE).await;
        let mut change = site.registry.database.begin().await.unwrap();
        let give_away =
            "UPDATE device SET organisation = (SELECT n FROM organisation WHERE id = $1) WHERE device_id = $2";
        let give_away = sqlx::query(give_away).bind(other.id).bind(from_device_id(DeviceId(2)));
        give_away.execute(&mut *change).await.unwrap();
        change.commit(|| ()).await.unwrap();
        let refused = site.registry.delete_board(public.id).await.unwrap_err();
        let said = format!("board {} has devices of other organisations; it stays as long as they do", public.id);
        assert_eq!(refused.to_string(), said, "nothing of how many, and no advice that the owner cannot follow");
        site.registry.delete_board(free.id).await.unwrap();
        assert_eq!(site.board_names(&acme, false, KindOrder::Name).await, ["public", "used"]);
        let refused = site.registry.delete_board(free.id).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("there is no board {}", free.id));
    }
}
