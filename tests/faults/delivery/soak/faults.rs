//! Faults, one after the other.

use super::stage::Stage;

/// A fault.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// A replica is killed, and a new one takes its place.
    Kill(usize),
    /// A new one takes its place, and then it drains.
    Drain(usize),
    /// Every connection between clients and servers is cut, whatever is in progress on it.
    CutClients,
    /// Every connection to PostgreSQL is cut, whatever is in progress on it.
    CutPostgres,
    /// Connections that LISTEN are cut, and receive nothing until they listen again.
    Deafen,
    /// Redis is killed.
    KillRedis,
    /// Redis returns empty.
    ResumeRedis,
    /// Redis answers nothing; published messages are not delivered.
    FreezeRedis,
    ThawRedis,
}

use Fault::*;

/// Order of faults for a fleet. A fault that stops notifications comes right before one that cuts connections.
pub fn of(replicas: usize, redis: bool) -> Vec<Fault> {
    let kill = |n: usize| Kill(n % replicas);
    match redis {
        true => vec![
            kill(0),
            FreezeRedis,
            CutClients,
            ThawRedis,
            CutPostgres,
            KillRedis,
            kill(1),
            ResumeRedis,
            Drain(2 % replicas),
            CutPostgres,
            CutClients,
        ],
        false => vec![kill(0), Deafen, CutClients, CutPostgres, Drain(0), Deafen, CutPostgres, CutClients],
    }
}

/// Causes the fault.
pub async fn commit(stage: &mut Stage, fault: Fault) {
    match fault {
        Kill(n) => stage.replace(n, true).await,
        Drain(n) => stage.replace(n, false).await,
        CutClients => {
            stage.cuts += 1;
            stage.proxies.iter().for_each(|proxy| proxy.cut_all());
        }
        CutPostgres => stage.postgres.cut_all(),
        Deafen => {
            let cut = "select pg_terminate_backend(pid) from pg_stat_activity
                        where datname = current_database() and application_name = 'catbird-server hints'";
            stage.hints_lost += stage.database.connect().await.query(cut, &[]).await.unwrap().len() as u64;
        }
        KillRedis => {
            stage.hints_lost += 1;
            stage.redis.as_mut().expect("a fleet with Redis").kill();
        }
        ResumeRedis => stage.redis.as_mut().expect("a fleet with Redis").resume(),
        FreezeRedis => {
            stage.hints_lost += 1;
            stage.redis.as_ref().expect("a fleet with Redis").freeze();
        }
        ThawRedis => stage.redis.as_ref().expect("a fleet with Redis").thaw(),
    }
}
