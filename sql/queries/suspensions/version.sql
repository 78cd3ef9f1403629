-- suspensions/version: changes with the list of suspended DIDs.
select version::text as version from suspensions_version
