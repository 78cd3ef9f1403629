-- device_additions/claim: lets a member add a device, and no other member for a while. A repetition does not extend that time.
-- needs: the addition (device_additions/hold).
-- $1 addition_id   $2 caller   $3 seconds
update device_memberships
   set claimed_by = $2,
       claim_expires_at = case when claimed_by = $2 and claim_expires_at > clock_timestamp() then claim_expires_at
                               else clock_timestamp() + make_interval(secs => $3) end
 where addition_id = $1
