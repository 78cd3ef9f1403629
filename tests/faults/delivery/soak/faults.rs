//! What goes wrong, one after the other.

use super::stage::Stage;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// A replica is killed, and another one takes its place when it has started.
    Kill(usize),
    /// Another one takes its place, and then it is told to end.
    Drain(usize),
    /// Every connection between clients and servers is cut, whatever is under way on it.
    CutClients,
    /// Every connection to PostgreSQL is cut, whatever is under way on it.
    CutPostgres,
    /// Whoever listens for NOTIFY is cut off, and hears of nothing until it listens again.
    Deafen,
    /// Redis is killed.
    KillRedis,
    /// It comes back with nothing in it.
    ResumeRedis,
    /// Redis answers nothing; what was sent through it is not delivered.
    FreezeRedis,
    ThawRedis,
}

use Fault::*;

/// The order for a fleet. Something that takes hints away comes right before something that cuts.
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

/// Makes it happen.
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
