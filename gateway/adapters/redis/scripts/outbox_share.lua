#!lua flags=allow-oom
-- uses: prelude
-- outbox_share: hand fresh events of an organization over to its own queue, each once. What is too much to wait becomes dead
-- letters, the oldest first.
-- KEYS  outbox, due, queue, history, dead letters
-- ARGV  1 organization, 2 most that wait, 3 most dead letters, 4 most of the history; then per event its entry, 1 for the
--       history too or 0, its text
-- reply how many became dead letters

local org, most_waiting = name_of(ARGV[1], 'organization'), int(ARGV[2], 'most that wait')
local most_dead, most_history = int(ARGV[3], 'most dead letters'), int(ARGV[4], 'most of the history')
if #ARGV % 3 ~= 1 then fail('an entry, a number and a text per event') end
for i = 5, #ARGV, 3 do
  local ms, number = string.match(ARGV[i], '^(%d+)%-(%d+)$')
  if not ms or #ms > 19 or #number > 19 then fail('not an entry') end
  int(ARGV[i + 1], 'history')
end
call('XLEN', KEYS[1])
call('ZSCORE', KEYS[2], org)
for i = 3, 5 do call('LLEN', KEYS[i]) end

for i = 5, #ARGV, 3 do
  if call('XDEL', KEYS[1], ARGV[i]) == 1 then
    call('RPUSH', KEYS[3], ARGV[i + 2])
    if ARGV[i + 1] ~= '0' then call('LPUSH', KEYS[4], ARGV[i + 2]) end
  end
end
call('LTRIM', KEYS[4], 0, digits(most_history - 1))
local waiting, died = call('LLEN', KEYS[3]), 0
while waiting - died > most_waiting do
  call('LPUSH', KEYS[5], call('LPOP', KEYS[3]))
  died = died + 1
end
if died > 0 then call('LTRIM', KEYS[5], 0, digits(most_dead - 1)) end
if waiting > died then call('ZADD', KEYS[2], 'NX', '0', org) end
return died
