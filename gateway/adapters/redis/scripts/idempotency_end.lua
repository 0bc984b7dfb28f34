#!lua flags=allow-oom
-- uses: prelude
-- idempotency_end: whoever holds a key lets it go: with the answer, for the next one to go on ('release'), or as if it had never
-- been used ('forget').
-- KEYS  record
-- ARGV  1 owner, 2 keep | release | forget, 3 answer
-- reply 1, or 0 where somebody else has taken over

if call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
if ARGV[2] == 'keep' then
  call('HSET', KEYS[1], 'answer', ARGV[3])
elseif ARGV[2] == 'release' then
  call('HSET', KEYS[1], 'until', '0')
else
  call('DEL', KEYS[1])
end
return 1
