//! The organisations and boards that lines name: asked for once each, and found in memory from then on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::Deserialize;
use uuid::Uuid;

use super::draft::Draft;
use super::{TransferError, shown};
use crate::records::{NewDevice, Organisation};

/// What a line needs to know of a board.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NamedBoard {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) soc: String,
    pub(super) organisation_id: Uuid,
}

/// Where organisations and boards are looked up.
pub(super) trait Directory {
    /// The organisation of the command line, by its name or record id, if there is one.
    fn organisation(&self, named: &str) -> Result<Uuid, TransferError>;

    /// All organisations.
    fn organisations(&self) -> Result<Vec<Organisation>, TransferError>;

    /// The boards that devices of an organisation may be of: its own, and public ones of others. A text if the gateway
    /// shows none.
    fn boards(&self, organisation: Uuid) -> Result<Result<Vec<NamedBoard>, String>, TransferError>;
}

/// Why a line comes to no device.
#[derive(Debug)]
pub(super) enum Unresolved {
    /// It is a bad line.
    Bad(String),
    /// The gateway cannot be asked, and no line can go on.
    Failed(TransferError),
}

/// The names that were met so far.
#[derive(Debug)]
pub(super) struct Names<D> {
    directory: D,
    /// Of lines that name no organisation.
    organisation: Option<String>,
    /// Of lines that name no board.
    board: Option<String>,
    organisations: Option<HashMap<String, Uuid>>,
    boards: HashMap<Uuid, Result<Boards, String>>,
}

/// The boards that an organisation may use.
#[derive(Debug)]
struct Boards {
    all: Vec<NamedBoard>,
    by_name: HashMap<String, Vec<usize>>,
    by_soc: HashMap<String, Vec<usize>>,
}

impl<D: Directory> Names<D> {
    /// No name is known yet; lines that name no organisation or board get these.
    pub(super) fn new(directory: D, organisation: Option<String>, board: Option<String>) -> Self {
        Self { directory, organisation, board, organisations: None, boards: HashMap::new() }
    }

    /// Looks at the names for lines that have none, as far as these make sense by themselves.
    ///
    /// # Errors
    /// There is no such organisation, or no such board of it.
    pub(super) fn check_defaults(&mut self) -> Result<(), TransferError> {
        let Some(named) = &self.organisation else { return Ok(()) };
        let organisation = self.directory.organisation(named)?;
        self.organisation = Some(organisation.to_string());
        let Some(board) = &self.board else { return Ok(()) };
        let boards = boards_of(&self.directory, &mut self.boards, organisation);
        match boards.and_then(|boards| boards.find(organisation, Some(board), None).map_err(Unresolved::Bad)) {
            Ok(_) => Ok(()),
            Err(Unresolved::Bad(problem)) => Err(TransferError::Name(format!("--board: {problem}"))),
            Err(Unresolved::Failed(error)) => Err(error),
        }
    }

    /// The device of a line.
    ///
    /// # Errors
    /// It names nothing that exists, or too much or too little.
    pub(super) fn resolve(&mut self, draft: Draft) -> Result<NewDevice, Unresolved> {
        let mcu_id = draft.mcu_id.ok_or_else(|| bad("it has no mcuId"))?;
        let organisation = match (draft.organisation, draft.organisation_id) {
            (Some(_), Some(_)) => return Err(bad("it has organisation and organisationId; give one of them")),
            (None, Some(id)) => id,
            (Some(name), None) => self.organisation(&name)?,
            (None, None) => match self.organisation.clone() {
                Some(name) => self.organisation(&name)?,
                None => return Err(bad("it names no organisation; add it, or give --organisation")),
            },
        };
        let board = match draft.board_id {
            Some(_) if draft.board.is_some() || draft.soc.is_some() => {
                return Err(bad("it has boardId beside board or soc; give boardId alone"));
            }
            Some(id) => id,
            None => self.board(organisation, draft.board.as_deref(), draft.soc.as_deref())?,
        };
        Ok(NewDevice {
            mcu_id,
            board_id: board,
            organisation_id: organisation,
            device_id: draft.device_id,
            metadata: draft.metadata,
            initial_device_state: draft.initial_device_state,
            device_public_key: draft.device_public_key,
            device_root_key: draft.device_root_key,
        })
    }

    /// An organisation by its name or record id.
    pub(super) fn organisation(&mut self, name: &str) -> Result<Uuid, Unresolved> {
        if let Ok(id) = Uuid::try_parse(name) {
            return Ok(id);
        }
        let organisations = match &mut self.organisations {
            Some(known) => known,
            unknown => {
                let all = self.directory.organisations().map_err(Unresolved::Failed)?;
                unknown.insert(all.into_iter().map(|organisation| (organisation.name, organisation.id)).collect())
            }
        };
        let found = organisations.get(name).copied();
        found.ok_or_else(|| bad(format!("there is no organisation {}, or this API key does not see it", shown(name))))
    }

    /// A board that an organisation may use, by what a line says of it.
    fn board(&mut self, organisation: Uuid, name: Option<&str>, soc: Option<&str>) -> Result<Uuid, Unresolved> {
        let name = name.or(self.board.as_deref());
        if let (Some(Ok(id)), None) = (name.map(Uuid::try_parse), soc) {
            return Ok(id);
        }
        if let (None, None) = (name, soc) {
            return Err(bad("it names no board; add board, boardId or soc, or give --board"));
        }
        let boards = boards_of(&self.directory, &mut self.boards, organisation)?;
        boards.find(organisation, name, soc).map_err(Unresolved::Bad)
    }
}

/// The boards that an organisation may use, asked for once.
fn boards_of<'a, D: Directory>(
    directory: &D,
    known: &'a mut HashMap<Uuid, Result<Boards, String>>,
    organisation: Uuid,
) -> Result<&'a Boards, Unresolved> {
    let boards = match known.entry(organisation) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(unknown) => {
            let boards = directory.boards(organisation).map_err(Unresolved::Failed)?;
            unknown.insert(boards.map(Boards::new))
        }
    };
    boards.as_ref().map_err(bad)
}

impl Boards {
    fn new(all: Vec<NamedBoard>) -> Self {
        let (mut by_name, mut by_soc) = (HashMap::new(), HashMap::new());
        for (index, board) in all.iter().enumerate() {
            by_name.entry(board.name.clone()).or_insert_with(Vec::new).push(index);
            by_soc.entry(board.soc.clone()).or_insert_with(Vec::new).push(index);
        }
        Self { all, by_name, by_soc }
    }

    /// The one board of this name, the organisation's own before public ones, and of this system on chip. Without a name
    /// it must be the only one of its system on chip.
    fn find(&self, organisation: Uuid, name: Option<&str>, soc: Option<&str>) -> Result<Uuid, String> {
        let named: Vec<&NamedBoard> = match (name.map(|name| (name, Uuid::try_parse(name))), soc) {
            (Some((_, Ok(id))), _) => self.all.iter().filter(|board| board.id == id).collect(),
            (Some((name, Err(_))), _) => self.indexed(&self.by_name, name),
            (None, Some(soc)) => self.indexed(&self.by_soc, soc),
            (None, None) => Vec::new(),
        };
        let fitting: Vec<_> = named.into_iter().filter(|board| soc.is_none_or(|soc| soc == board.soc)).collect();
        let own = name.and_then(|_| fitting.iter().find(|board| board.organisation_id == organisation));
        let said =
            [name.map(|name| format!("named {}", shown(name))), soc.map(|soc| format!("with soc {}", shown(soc)))];
        let said = || said.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        match (own, &fitting[..]) {
            (Some(own), _) => Ok(own.id),
            (None, [one]) => Ok(one.id),
            (None, []) => Err(format!("its organisation may use no board {}", said())),
            (None, more) => Err(format!("there are {} boards {}; give boardId", more.len(), said())),
        }
    }

    fn indexed(&self, index: &HashMap<String, Vec<usize>>, text: &str) -> Vec<&NamedBoard> {
        index.get(text).into_iter().flatten().filter_map(|index| self.all.get(*index)).collect()
    }
}

fn bad(problem: impl Into<String>) -> Unresolved {
    Unresolved::Bad(problem.into())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::clock::Timestamp;
    use crate::status::Time;

    const PLANT: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    /// An organisation `plant` with two boards of its own and two public ones of others in view.
    #[derive(Debug, Default)]
    struct Known {
        asked: RefCell<Vec<Uuid>>,
    }

    impl Directory for &Known {
        fn organisation(&self, named: &str) -> Result<Uuid, TransferError> {
            let found = [("plant", PLANT), ("other", OTHER)]
                .into_iter()
                .find(|(name, id)| *name == named || id.to_string() == named);
            found.map(|(_, id)| id).ok_or_else(|| TransferError::Name(named.to_owned()))
        }

        fn organisations(&self) -> Result<Vec<Organisation>, TransferError> {
            self.asked.borrow_mut().push(Uuid::nil());
            let time = Time(Timestamp(0));
            let plant = Organisation { id: PLANT, created_at: time, updated_at: time, name: "plant".to_owned() };
            Ok(vec![Organisation { id: OTHER, name: "other".to_owned(), ..plant.clone() }, plant])
        }

        fn boards(&self, organisation: Uuid) -> Result<Result<Vec<NamedBoard>, String>, TransferError> {
            self.asked.borrow_mut().push(organisation);
            if organisation == OTHER {
                return Ok(Err("not yours".to_owned()));
            }
            let board = |id, name: &str, soc: &str, owner| NamedBoard {
                id: Uuid::from_u128(id),
                name: name.to_owned(),
                soc: soc.to_owned(),
                organisation_id: owner,
            };
            let own = [board(10, "tag", "nRF9151", PLANT), board(11, "hub", "nRF5340", PLANT)];
            let public =
                [board(12, "tag", "nRF52", OTHER), board(13, "kit", "nRF52", OTHER), board(14, "kit", "nRF53", OTHER)];
            Ok(Ok(own.into_iter().chain(public).collect()))
        }
    }

    fn draft(json: &str) -> Draft {
        Draft::of_json(json.as_bytes()).unwrap()
    }

    fn resolved(names: &mut Names<&Known>, json: &str) -> Result<(u128, u128), String> {
        match names.resolve(draft(json)) {
            Ok(new) => Ok((new.organisation_id.as_u128(), new.board_id.as_u128())),
            Err(Unresolved::Bad(problem)) => Err(problem),
            Err(Unresolved::Failed(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn names_and_ids_lead_to_records_and_each_list_is_asked_for_once() {
        let known = Known::default();
        let mut names = Names::new(&known, None, None);
        let id = |id: u128| Uuid::from_u128(id).to_string();
        for (json, board) in [
            (r#"{"mcuId":"00","organisation":"plant","board":"tag"}"#.to_owned(), 10),
            (r#"{"mcuId":"00","organisation":"plant","board":"tag","soc":"nRF52"}"#.to_owned(), 12),
            (r#"{"mcuId":"00","organisation":"plant","soc":"nRF5340"}"#.to_owned(), 11),
            (format!(r#"{{"mcuId":"00","organisation":"plant","board":"{}"}}"#, id(77)), 77),
            (format!(r#"{{"mcuId":"00","organisationId":"{}","boardId":"{}"}}"#, id(1), id(78)), 78),
            (format!(r#"{{"mcuId":"00","organisation":"{}","board":"kit","soc":"nRF53"}}"#, id(1)), 14),
            (format!(r#"{{"mcuId":"00","organisation":"plant","board":"{}","soc":"nRF53"}}"#, id(14)), 14),
        ] {
            assert_eq!(resolved(&mut names, &json), Ok((1, board)), "{json}");
        }
        assert_eq!(known.asked.into_inner(), [Uuid::nil(), PLANT]);
    }

    #[test]
    fn a_line_that_names_nothing_gets_what_the_command_names() {
        let known = Known::default();
        let mut names = Names::new(&known, Some("plant".to_owned()), Some("hub".to_owned()));
        assert_eq!(resolved(&mut names, r#"{"mcuId":"00"}"#), Ok((1, 11)));
        assert_eq!(resolved(&mut names, r#"{"mcuId":"00","board":"tag"}"#), Ok((1, 10)));
        let error = resolved(&mut names, r#"{"mcuId":"00","soc":"nRF9151"}"#).unwrap_err();
        assert_eq!(error, "its organisation may use no board named \"hub\" with soc \"nRF9151\"");
        assert!(names.check_defaults().is_ok());
        assert_eq!(resolved(&mut names, r#"{"mcuId":"00"}"#), Ok((1, 11)));
    }

    #[test]
    fn a_name_or_id_of_the_command_that_does_not_exist_is_told_before_any_line() {
        let known = Known::default();
        let (plant, astray) = (PLANT.to_string(), Uuid::from_u128(77).to_string());
        for (organisation, board, expected) in [
            ("plan", None, "plan"),
            (astray.as_str(), None, astray.as_str()),
            ("plant", Some("hut"), "--board: its organisation may use no board named \"hut\""),
            (&plant, Some(&astray), "--board: its organisation may use no board named \"00000000-"),
            ("other", Some("hub"), "--board: not yours"),
        ] {
            let mut names = Names::new(&known, Some(organisation.to_owned()), board.map(str::to_owned));
            let error = names.check_defaults().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{organisation} {board:?}: {error}");
        }
    }

    #[test]
    fn what_a_line_names_wrongly_is_told_and_a_key_in_the_wrong_place_is_not_quoted() {
        let known = Known::default();
        let mut names = Names::new(&known, None, None);
        for (json, expected) in [
            (r#"{"organisation":"plant"}"#, "it has no mcuId"),
            (r#"{"mcuId":"00"}"#, "it names no organisation; add it, or give --organisation"),
            (
                r#"{"mcuId":"00","organisation":"plan"}"#,
                "there is no organisation \"plan\", or this API key does not see it",
            ),
            (
                r#"{"mcuId":"00","organisation":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}"#,
                "there is no organisation (a key, which is not shown), or this API key does not see it",
            ),
            (
                r#"{"mcuId":"00","organisation":"plant"}"#,
                "it names no board; add board, boardId or soc, or give --board",
            ),
            (r#"{"mcuId":"00","organisation":"plant","board":"x"}"#, "its organisation may use no board named \"x\""),
            (
                r#"{"mcuId":"00","organisation":"plant","board":"kit"}"#,
                "there are 2 boards named \"kit\"; give boardId",
            ),
            (
                r#"{"mcuId":"00","organisation":"plant","soc":"nRF52"}"#,
                "there are 2 boards with soc \"nRF52\"; give boardId",
            ),
            (r#"{"mcuId":"00","organisation":"other","soc":"x"}"#, "not yours"),
            (
                r#"{"mcuId":"00","organisation":"plant","organisationId":"00000000-0000-0000-0000-000000000001"}"#,
                "it has organisation and organisationId; give one of them",
            ),
            (
                r#"{"mcuId":"00","organisation":"plant","soc":"x","boardId":"00000000-0000-0000-0000-000000000001"}"#,
                "it has boardId beside board or soc; give boardId alone",
            ),
        ] {
            assert_eq!(resolved(&mut names, json).unwrap_err(), expected, "{json}");
        }
    }
}
