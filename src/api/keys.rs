//! Making, listing and deleting stored API keys.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Request;
use hyper::body::Incoming;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use tokio::runtime::Handle;
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::records::{ApiKey, NewApiKey};
use crate::registry::RegistryError;
use crate::status::Time;

use super::Api;
use super::access::sha256;
use super::call::Call;
use super::error::ApiError;
use super::handlers::{Answer, no_content, query};

/// The answer to `POST /apiKey`: the only time that the key itself is told.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedApiKey)]
pub(super) struct MadeKey<'a> {
    #[schema(value_type = ApiKey)]
    #[serde(flatten)]
    record: &'a ApiKey,
    /// What is sent with requests.
    key: &'a str,
}

impl Call {
    /// `POST /apiKey`.
    pub(super) async fn create_key(&self, request: Box<Request<Incoming>>) -> Answer {
        let new: NewApiKey = self.body(request).await?;
        if new.expires_at.is_some_and(|Time(at)| at <= self.api.clock.now()) {
            let rule = "expiresAt has passed already; name a time to come, or leave it out";
            return Err(RegistryError::Rule(rule.to_owned()).into());
        }
        if let Some(end) = self.caller.expires_at()
            && new.expires_at.is_none_or(|Time(at)| at > end)
        {
            let rule = "expiresAt is missing, or later than the credentials that make the key expire; name an earlier time, or \
                        use credentials that do not expire";
            return Err(RegistryError::Rule(rule.to_owned()).into());
        }
        let key = random_key()?;
        let digest = sha256(key.as_bytes());
        let api = Arc::clone(&self.api);
        let made = uninterrupted(async move {
            let record = api.make_key(&new, digest).await?;
            Ok(Untold { api, record, told: false })
        });
        let mut made = made.await?;
        let answer = self.created(&MadeKey { record: &made.record, key: &key });
        made.told = answer.is_ok();
        answer
    }

    /// `GET /apiKey`.
    pub(super) async fn keys(&self, request: Box<Request<Incoming>>) -> Answer {
        let page = query(&request).page()?;
        let stored = self.api.registry.api_keys(page).await?;
        self.ok(&stored.into_iter().map(|stored| stored.key).collect::<Vec<_>>())
    }

    /// `DELETE /apiKey/id/{id}`.
    pub(super) async fn delete_key(&self, id: Uuid) -> Answer {
        let api = Arc::clone(&self.api);
        uninterrupted(async move { api.delete_key(id).await }).await?;
        Ok(no_content())
    }
}

impl Api {
    async fn make_key(&self, new: &NewApiKey, digest: [u8; 32]) -> Result<ApiKey, ApiError> {
        let _alone = self.access.changes().lock().await;
        let stored = self.registry.create_api_key(new, digest).await?;
        self.access.forget_expired(self.clock.now());
        self.access.add(&stored);
        Ok(stored.key)
    }

    async fn delete_key(&self, id: Uuid) -> Result<(), ApiError> {
        let _alone = self.access.changes().lock().await;
        self.registry.delete_api_key(id).await?;
        self.access.remove(id);
        Ok(())
    }
}

/// A key that is made. Dropped before it was told, it is deleted again: nobody has it, and nobody ever will.
struct Untold {
    api: Arc<Api>,
    record: ApiKey,
    told: bool,
}

impl Drop for Untold {
    fn drop(&mut self) {
        // Without a runtime the process is about to end.
        let Ok(runtime) = Handle::try_current() else { return };
        if self.told {
            return;
        }
        let (api, id) = (Arc::clone(&self.api), self.record.id);
        runtime.spawn(async move {
            if let Err(error) = api.delete_key(id).await {
                tracing::warn!(%id, %error, "an API key was made and not told, and cannot be deleted; delete it");
            }
        });
    }
}

/// Does what must not be left half done when the client leaves: what is written is what is in force.
async fn uninterrupted<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.unwrap_or(Err(ApiError::Internal))
}

/// `ik_` and 32 random bytes.
fn random_key() -> Result<Zeroizing<String>, ApiError> {
    let mut secret = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(secret.as_mut_slice()).map_err(|_| ApiError::Internal)?;
    let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_slice()));
    Ok(Zeroizing::new(format!("ik_{}", *encoded)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_prefix_and_43_characters_and_never_the_same() {
        let (first, second) = (random_key().unwrap(), random_key().unwrap());
        assert!(first.len() == 46 && first.starts_with("ik_"), "{}", *first);
        assert_ne!(*first, *second);
    }
}
