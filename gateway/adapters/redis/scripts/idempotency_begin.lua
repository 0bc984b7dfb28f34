#!lua flags=allow-oom
-- uses: prelude
-- idempotency_begin: take a key for one request, or say what became of it. Whoever has it holds it by a lease: once that is over,
-- the next one with the same body takes over.
-- KEYS  record
-- ARGV  1 owner, 2 lease ms, 3 life ms, 4 fingerprint of what is asked, then the same under older secrets
-- reply {'ours'} | {'under_way'} | {'other_body'} | {'answered', answer}

local owner, lease, life = name_of(ARGV[1], 'owner'), int(ARGV[2], 'lease'), int(ARGV[3], 'life')
if life == 0 then fail('a life of no time') end
for i = 4, math.max(#ARGV, 4) do name_of(ARGV[i], 'fingerprint') end
local now = now_ms()
local v = call('HMGET', KEYS[1], 'asked', 'owner', 'until', 'answer')
local same = not v[1]
for i = 4, #ARGV do same = same or ARGV[i] == v[1] end
if not same then return {'other_body'} end
if v[4] then return {'answered', v[4]} end
if v[1] and v[2] ~= owner and now < stored(v[3], 'until') then return {'under_way'} end
call('HSET', KEYS[1], 'asked', ARGV[4], 'owner', owner, 'until', digits(now + lease))
call('PEXPIRE', KEYS[1], digits(life))
return {'ours'}
