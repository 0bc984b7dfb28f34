#!lua flags=allow-oom
-- uses: prelude
-- idempotency_end: whoever holds a key lets it go: with the answer, for the next one to go on ('release'), or as if it had never
-- been used ('forget').
-- KEYS  record
-- ARGV  1 owner, 2 keep | release | forget, 3 answer
-- reply 1, or 0 where somebody else has taken over

local owner, how, answer = name_of(ARGV[1], 'owner'), ARGV[2], ARGV[3]
if how ~= 'keep' and how ~= 'release' and how ~= 'forget' then fail('keep, release or forget') end
if call('HGET', KEYS[1], 'owner') ~= owner then return 0 end
if how == 'keep' then
  call('HSET', KEYS[1], 'answer', answer)
elseif how == 'release' then
  call('HSET', KEYS[1], 'until', '0')
else
  call('DEL', KEYS[1])
end
return 1
