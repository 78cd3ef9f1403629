-- incarnation/renew: starts the next incarnation, unless the present one is known by now.
select renew_incarnation() as id
