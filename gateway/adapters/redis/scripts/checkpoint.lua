#!lua flags=allow-oom
-- uses: prelude
-- checkpoint: write down what an open hold has earned so far (absolute, never falls) and renew it. Moves no money.
-- KEYS  hold, open holds
-- ARGV  1 hold id, 2 earned, 3 outcome so far ('' or none: as it was); one that comes late changes neither
-- reply {'renewed', earned} | {'not_open'}: also once the hold has passed its greatest age

local id, earned = name_of(ARGV[1], 'hold'), int(ARGV[2], 'earned')
local hold, now = hold_of(KEYS[1]), now_ms()
if not hold or hold[STATE] ~= 'open' or now >= hold[MUST_END] then return {'not_open'} end
if earned >= hold[EARNED] then
  hold[EARNED] = earned
  if (ARGV[3] or '') ~= '' then hold[OUTCOME] = ARGV[3] end
end
if hold[OWNER] == '' then
  hold[RENEWED_UNTIL] = math.min(now + hold[LIFETIME], hold[MUST_END])
  call('ZADD', KEYS[2], digits(hold[RENEWED_UNTIL]), id)
end
call('SET', KEYS[1], cmsgpack.pack(hold))
return {'renewed', hold[EARNED]}
