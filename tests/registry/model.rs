//! Random histories against a registry that is a plain list.

use fastrand::Rng;
use lastroute::records::{Key32, NewDeviceState};
use lastroute::registry::{DeviceRecord, Imported, Registrar};

use super::*;

/// A device as the plain list has it.
#[derive(Clone, Debug)]
struct Known {
    new: NewDevice,
    /// Of the record.
    id: uuid::Uuid,
    device_id: DeviceId,
    state: NewDeviceState,
    has_key: bool,
}

struct Model {
    boards: Vec<Board>,
    devices: Vec<Known>,
    random: Rng,
}

impl Model {
    fn board(&self, new: &NewDevice) -> Option<&Board> {
        self.boards.iter().find(|board| board.id == new.board_id)
    }

    fn soc(&self, new: &NewDevice) -> Option<&str> {
        self.board(new).map(|board| board.soc.as_str())
    }

    /// What stands against a device with `metadata` that is not `itself`.
    fn metadata_problem(&self, new: &NewDevice, itself: Option<uuid::Uuid>) -> Option<&'static str> {
        let board = self.board(new)?;
        if board.metadata_fields.iter().any(|field| field.required && !new.metadata.contains_key(&field.name)) {
            return Some("rule");
        }
        let taken = board.metadata_fields.iter().filter(|field| field.unique).any(|field| {
            let value = new.metadata.get(&field.name);
            let others =
                self.devices.iter().filter(|known| Some(known.id) != itself && known.new.board_id == new.board_id);
            value.is_some() && others.into_iter().any(|known| known.new.metadata.get(&field.name) == value)
        });
        taken.then_some("metadata")
    }

    fn problem(&self, new: &NewDevice) -> Option<&'static str> {
        let Some(board) = self.board(new) else { return Some("rule") };
        if !board.public && board.organisation_id != new.organisation_id {
            return Some("rule");
        }
        let metadata = self.metadata_problem(new, None);
        if metadata == Some("rule") {
            return metadata;
        }
        if self.devices.iter().any(|known| Some(known.device_id) == new.device_id) {
            return Some("deviceId");
        }
        let mut same = self.devices.iter().filter(|known| known.new.mcu_id == new.mcu_id);
        if same.any(|known| self.soc(&known.new) == self.soc(new)) {
            return Some("mcuId");
        }
        metadata
    }

    fn add(&mut self, new: &NewDevice, record: &DeviceRecord) {
        let state = new.initial_device_state.clone().unwrap_or_default();
        let has_key = new.device_root_key.is_some();
        let (id, device_id) = (record.device.id, record.device.device_id);
        self.devices.push(Known { new: new.clone(), id, device_id, state, has_key });
    }

    fn new_device(&mut self) -> NewDevice {
        let board = self.boards[self.random.usize(..self.boards.len())].clone();
        let owner = self.boards[self.random.usize(..self.boards.len())].clone();
        let owner = if self.random.u8(..4) == 0 { &owner } else { &board };
        NewDevice {
            organisation_id: owner.organisation_id,
            board_id: if self.random.u8(..20) == 0 { uuid::Uuid::nil() } else { board.id },
            mcu_id: format!("{:02x}", self.random.u8(..12)).parse().unwrap(),
            device_id: self.random.bool().then(|| DeviceId(self.random.u64(1..12))),
            initial_device_state: self
                .random
                .bool()
                .then(|| NewDeviceState { application_id: Some(self.random.u32(..)), ..NewDeviceState::default() }),
            device_root_key: self.random.bool().then(|| Key32::new([self.random.u8(..); 32])),
            metadata: self.metadata(),
            ..new_device(&board, 1)
        }
    }

    fn metadata(&mut self) -> Metadata {
        let mut metadata = Metadata::new();
        for name in ["serial", "colour"] {
            if self.random.u8(..3) > 0 {
                metadata.insert(name.to_owned(), self.random.u8(..8).to_string());
            }
        }
        metadata
    }

    fn any(&mut self) -> Option<usize> {
        (!self.devices.is_empty()).then(|| self.random.usize(..self.devices.len()))
    }
}

/// The kind of an error, in the words of the model.
fn kind(error: &RegistryError) -> &'static str {
    match error {
        RegistryError::Rule(_) => "rule",
        RegistryError::Conflict(Conflict::Taken { what, .. }) => what,
        RegistryError::Conflict(Conflict::Metadata { .. }) => "metadata",
        other => panic!("{other}"),
    }
}

async fn create(site: &Site, model: &mut Model) {
    let new: Vec<_> = (0..model.random.usize(1..4)).map(|_| model.new_device()).collect();
    let before = model.devices.clone();
    let made = site.registry.create_devices(&new, Registrar::OfAll).await;
    for (at, new) in new.iter().enumerate() {
        if let Some(problem) = model.problem(new) {
            let (failed, error) = made.unwrap_err();
            assert_eq!((failed, kind(&error)), (at, problem));
            model.devices = before;
            return;
        }
        // So that the next one is judged against it; its ids are those that were told, if all went well.
        match made.as_ref().map(|made| &made[at]) {
            Ok(record) => model.add(new, record),
            Err((failed, error)) => {
                assert!(*failed > at, "{error}");
                let (id, device_id) = (uuid::Uuid::from_u128(at as u128), new.device_id.unwrap_or(DeviceId(u64::MAX)));
                let state = NewDeviceState::default();
                model.devices.push(Known { new: new.clone(), id, device_id, state, has_key: false });
            }
        }
    }
    made.unwrap();
}

async fn import(site: &Site, model: &mut Model) {
    let mut new: Vec<_> = (0..model.random.usize(1..4)).map(|_| model.new_device()).collect();
    let same = model.any().map(|at| model.devices[at].clone());
    // Changed since, it is not the same any more: its metadata is that of now.
    new.extend(same.map(|known| NewDevice { device_id: Some(known.device_id), device_root_key: None, ..known.new }));
    let results = site.registry.import_devices(&new, Registrar::OfAll, false).await.unwrap();
    let stored = model.devices.clone();
    for (new, result) in new.iter().zip(results) {
        let is_same = |known: &Known| {
            let same_id = new.device_id.map_or(known.new.mcu_id == new.mcu_id, |id| known.device_id == id);
            let given = (&known.new.mcu_id, known.new.board_id, known.new.organisation_id, &known.new.metadata);
            same_id && given == (&new.mcu_id, new.board_id, new.organisation_id, &new.metadata)
        };
        let same = stored.iter().find(|known| is_same(known));
        match (result, model.problem(new)) {
            (Ok(Imported::Unchanged), Some(_)) => assert!(same.is_some(), "{new:?}"),
            (Ok(Imported::Created), None) => {
                let soc = model.soc(new).unwrap();
                let made = site.registry.device_with_hardware(soc, new.mcu_id.as_str()).await.unwrap().unwrap();
                model.add(new, &made);
            }
            (Err(error), Some(problem)) => assert_eq!(kind(&error), problem, "{new:?}"),
            (result, problem) => panic!("{result:?} {problem:?} {new:?}"),
        }
    }
}

async fn change(site: &Site, model: &mut Model) {
    let Some(at) = model.any() else { return };
    let operation = if model.random.bool() { MetadataOperation::Patch } else { MetadataOperation::Replace };
    let value = model.metadata();
    let mut new = model.devices[at].new.clone();
    if operation == MetadataOperation::Replace {
        new.metadata.clear();
    }
    new.metadata.extend(value.clone());
    let id = model.devices[at].id;
    let update = DeviceUpdate { metadata: Some(MetadataUpdate { operation, value }) };
    let changed = site.registry.update_device(id, &update).await;
    match model.metadata_problem(&new, Some(id)) {
        None => {
            assert_eq!(changed.unwrap().device.metadata, new.metadata);
            model.devices[at].new = new;
        }
        Some(problem) => assert_eq!(kind(&changed.unwrap_err()), problem),
    }
}

async fn set(site: &Site, model: &mut Model) {
    let Some(at) = model.any() else { return };
    let known = &mut model.devices[at];
    known.state = NewDeviceState { application_id: Some(model.random.u32(..)), ..NewDeviceState::default() };
    site.registry.set_device_state(known.id, &known.state).await.unwrap();
    let key = lastroute::records::GivenKey { device_root_key: Some(Key32::new([1; 32])), device_public_key: None };
    site.registry.set_device_key(known.id, &key).await.unwrap();
    known.has_key = true;
}

async fn delete(site: &Site, model: &mut Model) {
    let Some(at) = model.any() else { return };
    let known = model.devices.remove(at);
    site.registry.delete_device(known.id).await.unwrap();
    assert_eq!(site.live.table.registration(known.device_id), None);
    assert!(!site.live.keys.has_device(known.device_id));
}

/// Everything is as the model has it, stored and in force.
async fn compare(site: &Site, model: &Model) {
    let mut stored = site.registry.devices(&DeviceFilter::default(), Default::default(), ALL).await.unwrap();
    stored.sort_by_key(|record| record.device.id);
    assert_eq!(stored.len(), model.devices.len());
    for (record, known) in stored.iter().zip(&model.devices) {
        let (device, new) = (&record.device, &known.new);
        assert_eq!((device.id, device.device_id, &record.state), (known.id, known.device_id, &known.state));
        assert_eq!((device.board_id, device.organisation_id), (new.board_id, new.organisation_id));
        assert_eq!((&device.mcu_id, &device.metadata), (&new.mcu_id, &new.metadata));
        assert_eq!(device.initial_device_state, new.initial_device_state);
        assert!(new.device_id.is_none_or(|id| id == device.device_id));
        assert!(site.live.table.registration(device.device_id).is_some_and(|known| known.record > 0));
        assert_eq!(site.live.keys.has_device(device.device_id), known.has_key);
    }
    for value in 0..8 {
        let metadata = ("serial".to_owned(), value.to_string());
        let expected =
            model.devices.iter().filter(|known| known.new.metadata.get("serial") == Some(&metadata.1)).count();
        let filter = DeviceFilter { metadata: Some(metadata), ..DeviceFilter::default() };
        let found = site.registry.devices(&filter, Default::default(), ALL).await.unwrap();
        assert_eq!(found.len(), expected);
    }
}

#[tokio::test]
async fn random_histories_are_those_of_a_plain_list() {
    for seed in 0..4 {
        let mut site = Site::new().await;
        let (first, second) = (site.organisation("acme").await, site.organisation("other").await);
        let strict = site.board(&first, "a", &[("serial", true, true)]).await;
        let public = NewBoard { public: true, ..new_board(&second, "b", &[("colour", false, true)]) };
        let public = site.registry.create_board(&public).await.unwrap();
        let stm = NewBoard { soc: "STM32".to_owned(), ..new_board(&second, "c", &[]) };
        let stm = site.registry.create_board(&stm).await.unwrap();
        let mut model = Model { boards: vec![strict, public, stm], devices: Vec::new(), random: Rng::with_seed(seed) };
        for _ in 0..120 {
            match model.random.u8(..20) {
                0..7 => create(&site, &mut model).await,
                7..11 => import(&site, &mut model).await,
                11..15 => change(&site, &mut model).await,
                15..17 => set(&site, &mut model).await,
                17..19 => delete(&site, &mut model).await,
                _ => site = site.restart(0).await,
            }
            compare(&site, &model).await;
        }
        assert!(model.devices.len() > 5, "{}", model.devices.len());
    }
}
