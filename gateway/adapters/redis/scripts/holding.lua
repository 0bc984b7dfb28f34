-- Shared by the steps on a hold that stands: its scopes' counters, and how its reservation changes.

-- Move `amount` out of the hold, the pocket that was drawn last first.
local function release(account, split, amount)
  account.available = account.available + amount
  account.held = account.held - amount
  if account.held < 0 then fail('corrupt: less is held than the hold holds') end
  if not account.pockets then return end
  for i = 3, 1, -1 do
    local part = math.min(split[i], amount)
    account.pockets[i].available = account.pockets[i].available + part
    account.pockets[i].held = account.pockets[i].held - part
    split[i] = split[i] - part
    amount = amount - part
  end
end

-- The hold's scopes with their counters. nil where the keys that were handed over from KEYS[first] on are not the very
-- keys that the hold reserved on.
local function counters_of(hold, first)
  local counters = {}
  for i, scope in ipairs(hold[SCOPES]) do
    if KEYS[first] ~= scope[1] then return nil end
    first = first + 1
    if scope[2] ~= '' then
      if KEYS[first] ~= scope[2] then return nil end
      first = first + 1
    end
    local v = call('HMGET', scope[1], 'used', 'held')
    counters[i] = {key = scope[1], budget = scope[2], measure = scope[3], limit = scope[4], gone = not v[1],
      used = stored(v[1], 'used'), held = stored(v[2], 'held')}
  end
  return counters
end

local function keys_reply(hold)
  local reply = {'keys'}
  for _, scope in ipairs(hold[SCOPES]) do
    reply[#reply + 1] = scope[1]
    if scope[2] ~= '' then reply[#reply + 1] = scope[2] end
  end
  return reply
end

-- The most that can be had besides what is held: of what is available, and in every scope that counts money.
local function room_of(account, counters)
  local room = account.available
  for _, counter in ipairs(counters) do
    if counter.measure == 'm' and not counter.gone then
      local limit = counter.limit
      if counter.budget ~= '' then
        local budget = call('HMGET', counter.budget, 'limit', 'state')
        limit = budget[2] == 'active' and stored(budget[1], 'limit') or 0
      end
      room = math.min(room, limit - counter.used - counter.held)
    end
  end
  return math.max(room, 0)
end

local function save_counter(counter)
  if not counter.gone then
    call('HSET', counter.key, 'used', digits(counter.used), 'held', digits(counter.held))
  end
end
